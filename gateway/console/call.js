/**
 * One call from the first ring to the last word, over as many connections as it takes.
 *
 *     idle -> calling -> live <-> resuming -> over
 *
 * A lost path is first restarted (same keys, new ICE credentials), then replaced: a new connection with the
 * call's resume token, again and again until the gateway would have given the call up. One rule: `state`
 * changes in `#become` only, and `over` is for good.
 */

import { FINAL, Failure } from './messages.js';
import { Peer } from './peer.js';

export const RESUME_S = 30; // the gateway keeps a dropped call for so long (docs/protocol.md)
const CONNECT_MS = 12_000; // ICE and DTLS; a relay over TCP takes 1 s
const ATTEMPT_MS = 6_000;
const PAUSE_MS = 1_000;
const ASK_AGAIN_MS = 250;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export class Call extends EventTarget {
  #whip;
  #openVoice;
  #voiceTrack = null;
  #everyTurns;
  #peer = null;
  #state = 'idle';
  #resume = '';
  #recovering = false;

  /**
   * `openVoice()` promises the caller's track, or null, or throws a Failure.
   * Events: `state`, `message`, `stream`, `peer`, `token`, `over`.
   */
  constructor({ whip, openVoice, everyTurns }) {
    super();
    this.#whip = whip;
    this.#openVoice = openVoice;
    this.#everyTurns = everyTurns;
  }

  get state() {
    return this.#state;
  }

  get peer() {
    return this.#peer;
  }

  /** Place the call, or continue one by its token. Throws a Failure, and is over then. */
  async dial(resume = '') {
    this.#become('calling');
    let opened = false;
    try {
      const iceServers = await this.#whip.iceServers(); // tells a missing token before the microphone is asked for
      this.#voiceTrack = await this.#openVoice();
      opened = true;
      await this.#connect(iceServers, resume, resume ? ATTEMPT_MS : CONNECT_MS);
    } catch (failure) {
      if (this.#state === 'over') return; // hung up meanwhile
      if (resume && opened && !FINAL.has(failure.code)) {
        this.#resume = resume;
        await this.#recover();
        return;
      }
      this.#end();
      throw failure instanceof Failure ? failure : new Failure('unexpected', { detail: String(failure) });
    }
  }

  /** The caller hangs up. */
  hangUp() {
    if (this.#state === 'over') return;
    this.#peer?.channel.bye();
    this.#end();
    this.#emit('over', {});
  }

  /** Another voice from now on; null is silence. */
  async replaceVoice(track) {
    this.#voiceTrack = track;
    await this.#peer?.voiceSender.replaceTrack(track);
  }

  sendText(text) {
    return this.#peer?.channel.sendText(text) ?? false;
  }

  withdraw(task) {
    return this.#peer?.channel.withdraw(task) ?? false;
  }

  /** How many turns a statistics message sums up; 0 for none. */
  subscribe(everyTurns) {
    this.#everyTurns = everyTurns;
    this.#peer?.channel.subscribe(everyTurns);
  }

  /** The machine's network changed: look for a better path before the old one is missed. */
  networkChanged() {
    if (this.#state === 'live' && !this.#recovering) this.#recover();
  }

  async #connect(iceServers, resume, limitMs) {
    if (this.#state === 'over') return;
    this.#peer?.close();
    const peer = new Peer({
      whip: this.#whip,
      iceServers,
      voiceTrack: this.#voiceTrack,
      everyTurns: this.#everyTurns,
      on: {
        message: (message) => this.#heard(peer, message),
        stream: (stream) => this.#emit('stream', { stream }),
        lost: () => peer === this.#peer && this.#lost(),
      },
    });
    this.#peer = peer;
    this.#emit('peer', { peer });
    try {
      this.#resume = (await peer.connect(resume, limitMs)) || this.#resume;
    } finally {
      if (this.#state === 'over') this.#whip.hangUp(); // hung up before the gateway had named the call
    }
    if (this.#state === 'over') return;
    this.#emit('token', { token: this.#resume });
    this.#become('live');
  }

  #heard(peer, message) {
    if (peer !== this.#peer || this.#state === 'over') return;
    this.#emit('message', { message });
    if (message.type === 'bye') this.#ended(message.reason);
  }

  #lost() {
    if (this.#state === 'live') this.#recover();
  }

  /** Restart, then replace, until connected or the gateway has given the call up. */
  async #recover() {
    if (this.#recovering) return;
    this.#recovering = true;
    const until = performance.now() + 1000 * RESUME_S;
    if (!this.#peer?.isConnected) this.#become('resuming', { until });
    const failure = await this.#tryUntil(until);
    this.#recovering = false;
    if (this.#state === 'over') return;
    if (!failure) {
      this.#become('live');
      if (!this.#peer.isConnected) this.#lost();
      return;
    }
    this.#end();
    this.#emit('over', { failure });
  }

  /** null when connected, else the Failure to show. */
  async #tryUntil(until) {
    if (await this.#restarted(until)) return null;
    while (performance.now() < until && this.#state !== 'over') {
      try {
        await this.#connect(await this.#whip.iceServers(), this.#resume, ATTEMPT_MS);
        return null;
      } catch (failure) {
        if (FINAL.has(failure.code)) return failure;
        await pause(PAUSE_MS);
      }
    }
    return new Failure('lost');
  }

  /**
   * The cheap way, once asked for: a worker that is gone would answer no second restart either. Until the gateway
   * can be asked again nothing is decided: a new address is often there before its route.
   */
  async #restarted(until) {
    const peer = this.#peer;
    while (peer?.mayRestart && performance.now() < until && this.#state !== 'over') {
      try {
        await peer.restart(ATTEMPT_MS);
        return true;
      } catch (failure) {
        this.#become('resuming', { until });
        if (failure.code !== 'away') return false;
        await pause(ASK_AGAIN_MS);
      }
    }
    return false;
  }

  #ended(reason) {
    this.#end();
    this.#emit('over', { reason });
  }

  #end() {
    this.#become('over');
    this.#whip.hangUp();
    const peer = this.#peer;
    setTimeout(() => peer?.close(), 50); // lets the bye out
  }

  #become(state, detail = {}) {
    if (this.#state === 'over' || (this.#state === state && state !== 'resuming')) return;
    this.#state = state;
    this.#emit('state', { state, ...detail });
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
