/**
 * One RTCPeerConnection of a call: voice both ways, camera out, and the data channel.
 *
 * It offers all of them at once, camera or not, so that nothing is ever negotiated again. A call that is
 * resumed gets a new one. One rule: `onLost` is called at most once for each time it was connected.
 */

import { Channel } from './channel.js';
import { Failure } from './messages.js';
import { fragmentOf, isLite, withFragment } from './sdpfrag.js';

/** The offer with generic NACK (RFC 4585) for Opus. */
const withRepeats = (sdp) =>
  sdp.replace(/^a=rtpmap:(\d+) opus\/48000.*$/m, (line, type) =>
    sdp.includes(`a=rtcp-fb:${type} nack\r`) ? line : `${line.trimEnd()}\r\na=rtcp-fb:${type} nack`,
  );

const CONNECTED = new Set(['connected', 'completed']);

export class Peer {
  #wire;
  #whip;
  #voice;
  #camera;
  #candidates = [];
  #wantsCandidates = null; // unknown until the answer is there
  #told = false;
  #waiting = new Set();

  /** `on` has `message`, `stream` and `lost`; tracks may be null. */
  constructor({ whip, iceServers, voiceTrack, everyTurns, on }) {
    this.#whip = whip;
    this.#wire = new RTCPeerConnection({ iceServers, bundlePolicy: 'max-bundle' });
    this.#voice = this.#wire.addTransceiver(voiceTrack ?? 'audio', { direction: 'sendrecv' });
    this.#camera = this.#wire.addTransceiver('video', { direction: 'sendonly' });
    this.channel = new Channel(this.#wire, everyTurns, on.message);
    this.#wire.ontrack = ({ track }) => track.kind === 'audio' && on.stream(new MediaStream([track]));
    this.#wire.onicecandidate = ({ candidate }) => this.#found(candidate);
    this.#wire.onconnectionstatechange = this.#wire.oniceconnectionstatechange = () => this.#changed(on.lost);
  }

  get voiceSender() {
    return this.#voice.sender;
  }

  get cameraSender() {
    return this.#camera.sender;
  }

  get takesVideo() {
    return this.#camera.currentDirection === 'sendonly' || this.#camera.currentDirection === 'sendrecv';
  }

  get isConnected() {
    return this.#wire.connectionState === 'connected' && CONNECTED.has(this.#wire.iceConnectionState);
  }

  get mayRestart() {
    return this.#whip.hasResource && !['failed', 'closed', 'new'].includes(this.#wire.connectionState);
  }

  stats() {
    return this.#wire.getStats();
  }

  /** Offer, answer, connection. Gives the new resume token; throws a Failure. */
  async connect(resume, limitMs) {
    await this.#offer();
    const answer = await this.#whip.offer(this.#wire.localDescription.sdp, resume);
    await this.#accept(answer.sdp);
    this.#wantsCandidates = !isLite(answer.sdp);
    await this.#trickle();
    await this.#whenConnected(limitMs);
    return answer.resume;
  }

  /** ICE restart: the same keys and streams over another path. Throws a Failure. */
  async restart(limitMs) {
    this.#candidates = [];
    await this.#offer({ iceRestart: true });
    try {
      const fragment = await this.#whip.restart(fragmentOf(this.#wire.localDescription.sdp));
      await this.#accept(withFragment(this.#wire.currentRemoteDescription.sdp, fragment));
    } catch (failure) {
      if (this.#wire.signalingState === 'have-local-offer') {
        await this.#wire.setLocalDescription({ type: 'rollback' });
      }
      throw failure;
    }
    await this.#trickle();
    await this.#whenConnected(limitMs);
  }

  close() {
    this.#told = true;
    this.#wire.close();
    this.#changed(() => {});
  }

  /** Some browsers repeat lost speech only when their offer says that they can; one that minds offers as it likes. */
  async #offer(options) {
    const offer = await this.#wire.createOffer(options);
    try {
      await this.#wire.setLocalDescription({ type: 'offer', sdp: withRepeats(offer.sdp) });
    } catch {
      await this.#wire.setLocalDescription(offer);
    }
  }

  async #accept(sdp) {
    try {
      await this.#wire.setRemoteDescription({ type: 'answer', sdp });
    } catch (cause) {
      throw new Failure('refused', { detail: cause.message });
    }
  }

  /** Candidates are of use to a full ICE agent only; a lite one learns our addresses from our checks. */
  #found(candidate) {
    if (this.#wantsCandidates === false) return;
    if (candidate?.candidate) this.#candidates.push(candidate.candidate);
    if (this.#wantsCandidates) this.#trickle();
  }

  async #trickle() {
    if (!this.#wantsCandidates || !this.#candidates.length) return;
    const found = this.#candidates.splice(0);
    const complete = this.#wire.iceGatheringState === 'complete';
    await this.#whip.trickle(fragmentOf(this.#wire.localDescription.sdp, found, complete)).catch(() => {});
  }

  #changed(lost) {
    for (const check of [...this.#waiting]) check();
    if (this.isConnected) {
      this.#told = false;
    } else if (!this.#told && this.#isLost()) {
      this.#told = true;
      lost();
    }
  }

  #isLost() {
    const { connectionState, iceConnectionState } = this.#wire;
    return ['failed', 'closed'].includes(connectionState) || ['disconnected', 'failed'].includes(iceConnectionState);
  }

  #whenConnected(limitMs) {
    return new Promise((resolve, reject) => {
      const settle = (act) => {
        clearTimeout(timer);
        this.#waiting.delete(check);
        act();
      };
      const check = () => {
        if (this.isConnected) settle(resolve);
        else if (['failed', 'closed'].includes(this.#wire.connectionState)) settle(() => reject(new Failure('no-path')));
      };
      const timer = setTimeout(() => settle(() => reject(new Failure('no-path'))), limitMs);
      this.#waiting.add(check);
      check();
    });
  }
}
