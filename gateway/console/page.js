/**
 * The page: buttons, the call, and what is seen of it.
 *
 * It wires the parts and holds one call at a time. One rule: every failure ends in `#fail`, which shows it.
 */

import { Call, RESUME_S } from './call.js';
import { Captions } from './captions.js';
import { MAX_TEXT_BYTES, textBytes } from './channel.js';
import * as devices from './devices.js';
import * as memory from './memory.js';
import { Failure, GOODBYES, NOTICES, PASSING, RESUMING, noticeOf } from './messages.js';
import { Monitor } from './monitor.js';
import { Notice } from './notice.js';
import { Settings } from './settings.js';
import { Tasks } from './tasks.js';
import { clock } from './timeline.js';
import { Tracks } from './tracks.js';
import { WhipClient } from './whip.js';

const GATEWAY = new URL('..', import.meta.url); // served from console/ below it
const CALLED = new URLSearchParams(location.search).get('to') ?? '';
const EVERY_TURNS = 2; // statistics while the page is seen
const EVERY_TURNS_UNSEEN = 25;
const MOST_REDIALS = 5;
const ROOM_TOLD_BELOW_BYTES = 200;
const STATUS = { idle: 'Ready', calling: 'Calling', live: 'In call', resuming: 'Reconnecting' };
const CALL_LABEL = { idle: 'Call', calling: 'Cancel', live: 'Hang up', resuming: 'Hang up' };

const find = (id) => document.getElementById(id);

class Page {
  #settings = new Settings(find);
  #tracks = new Tracks(this.#settings, (device) => this.#deviceGone(device));
  #monitor = new Monitor(find);
  #captions = new Captions(find('captions'));
  #tasks = new Tasks(find('tasks'), (task) => this.#call?.withdraw(task));
  #notice = new Notice(find('notice'), find('call'), (name, value) => this.#act(name, value));
  #call = null;
  #redials = 0;
  #token = '';
  #wantsPicture = false;

  start() {
    memory.takeFromAddress();
    this.#listen();
    this.#show('idle');
    const obstacle = devices.obstacle();
    if (obstacle) {
      find('call').disabled = find('camera').disabled = true;
      this.#fail(obstacle);
      return;
    }
    this.#settings.refresh();
    setInterval(() => this.#tick(), 1000);
    const kept = wasReloaded() ? memory.callToResume() : null;
    if (kept) this.#dial({ resume: kept.resume, picture: kept.camera });
  }

  // -- the call

  async #dial({ resume = '', listenOnly = false, picture = this.#wantsPicture } = {}) {
    if (this.#call) return;
    this.#notice.hide();
    if (!resume) this.#begin();
    const call = this.#newCall(listenOnly);
    this.#call = call;
    if (picture && !this.#tracks.picture) await this.#openPicture();
    try {
      await call.dial(resume);
    } catch (failure) {
      if (resume && failure.code === 'gone') memory.keepCall(null);
      this.#over();
      this.#fail(failure);
    }
  }

  #newCall(listenOnly) {
    const whip = new WhipClient(GATEWAY, memory.bearer, CALLED);
    const call = new Call({ whip, openVoice: () => this.#openVoice(listenOnly), everyTurns: this.#everyTurns() });
    const on = (type, act) => call.addEventListener(type, ({ detail }) => call === this.#call && act(detail));
    on('state', (detail) => this.#changed(detail));
    on('message', ({ message }) => this.#heard(message));
    on('stream', ({ stream }) => this.#play(stream));
    on('peer', ({ peer }) => this.#tracks.sendPicture(peer));
    on('token', ({ token }) => this.#keep(token));
    on('over', (detail) => this.#ended(detail));
    return call;
  }

  async #openVoice(listenOnly) {
    if (listenOnly) return null;
    const call = this.#call;
    const track = await this.#tracks.openVoice();
    if (call !== this.#call) this.#tracks.closeVoice(); // hung up while the browser asked
    this.#settings.refresh();
    return this.#tracks.voice;
  }

  #begin() {
    this.#captions.clear();
    this.#monitor.clear();
    this.#tasks.clear();
    find('welcome').hidden = false;
    find('call-name').textContent = '–';
  }

  #changed({ state, until }) {
    if (state === 'over') return;
    this.#show(state);
    if (state === 'resuming') this.#resuming(until);
    if (state !== 'live') return;
    this.#redials = 0;
    if (this.#notice.code === 'resuming') this.#notice.hide();
    if (this.#tracks.picture && !this.#call.peer.takesVideo) this.#pictureUnwanted();
  }

  #resuming(until) {
    const countdownS = Math.min((until - performance.now()) / 1000, RESUME_S);
    const words = (left) => `${left} s left`;
    if (this.#notice.code !== 'resuming') this.#notice.show({ ...RESUMING, code: 'resuming' }, { countdownS, words });
  }

  #ended({ reason, failure }) {
    this.#over();
    if (failure) this.#fail(failure);
    else if (reason) this.#notice.show({ ...(GOODBYES[reason] ?? GOODBYES.hangup), code: `bye-${reason}` });
    else this.#notice.hide();
  }

  #over() {
    this.#call = null;
    this.#tasks.end();
    this.#keep('');
    this.#tracks.closeVoice();
    this.#tracks.closePicture();
    find('sound').srcObject = null;
    this.#showPicture();
    this.#show('idle');
  }

  #keep(token) {
    this.#token = token;
    memory.keepCall(token, this.#wantsPicture);
  }

  /** A word of the gateway's about the line; whatever else the page has to say goes first. */
  #told({ code }) {
    const shown = this.#notice.code;
    if (NOTICES[code] && !shown) this.#notice.show({ ...NOTICES[code], code });
    else if (code === 'good-line' && shown === 'weak-line') this.#notice.hide();
  }

  #heard(message) {
    const { type } = message;
    if (type === 'hello') this.#greeted(message);
    else if (type === 'caption') this.#caption(message);
    else if (type === 'cut') this.#cut(message);
    else if (type === 'turns') this.#monitor.turns(message);
    else if (type === 'action') this.#captions.event(`The model chose: ${message.action}`, this.#monitor.ageMs);
    else if (type === 'task') this.#tasks.take(message);
    else if (type === 'notice') this.#told(message);
    else if (type === 'error') this.#fail(new Failure('text-refused', { detail: message.message ?? message.code }));
  }

  #greeted({ call, engine, engine_name: name, turn_ms: turnMs, resumed }) {
    document.body.dataset.call = call;
    document.body.dataset.resumed = Boolean(resumed);
    find('call-name').textContent = call;
    find('engine').textContent = engine ? `engine ${name ? `${name} (${engine})` : engine}` : '';
    find('can-say').hidden = engine !== 'digits';
    if (!resumed) {
      this.#captions.clear(turnMs);
      this.#monitor.clear(turnMs);
      this.#tasks.clear();
    }
  }

  #caption({ turn, text }) {
    find('welcome').hidden = true;
    this.#captions.add(turn, text);
  }

  #cut({ turn, heard_ms: heardMs }) {
    this.#captions.cut(turn, heardMs);
    this.#monitor.cut(turn, heardMs);
  }

  async #play(stream) {
    const sound = find('sound');
    sound.srcObject = stream;
    sound.volume = this.#settings.choices.volume;
    await this.#chooseSpeaker();
    await sound.play().catch((cause) => {
      if (cause.name === 'NotAllowedError') this.#fail(new Failure('cannot-play'));
    });
  }

  async #chooseSpeaker() {
    const { speaker } = this.#settings.choices;
    if (!devices.canChooseSpeaker()) return;
    await find('sound').setSinkId(speaker).catch(() => speaker && this.#fail(new Failure('no-speaker')));
  }

  // -- microphone and camera

  #mute(isMuted) {
    this.#tracks.mute(isMuted);
    press('mute', isMuted, isMuted ? 'Unmute' : 'Mute');
  }

  async #togglePicture() {
    this.#wantsPicture = !this.#wantsPicture;
    if (this.#wantsPicture) await this.#openPicture();
    else this.#tracks.closePicture();
    await this.#tracks.sendPicture(this.#call?.peer);
    if (this.#tracks.picture && this.#call?.state === 'live' && !this.#call.peer.takesVideo) this.#pictureUnwanted();
    this.#showPicture();
    if (this.#call?.state === 'live') this.#keep(this.#token);
  }

  async #openPicture() {
    this.#wantsPicture = true;
    try {
      await this.#tracks.openPicture();
      this.#settings.refresh();
    } catch (failure) {
      this.#wantsPicture = false;
      this.#fail(failure);
    }
    this.#showPicture();
  }

  #pictureUnwanted() {
    this.#wantsPicture = false;
    this.#tracks.closePicture();
    this.#showPicture();
    this.#fail(new Failure('camera-unwanted'));
  }

  #showPicture() {
    const { picture } = this.#tracks;
    if (!picture) this.#wantsPicture = false;
    find('self').hidden = !picture;
    find('no-view').hidden = Boolean(picture);
    find('self').srcObject = picture ? new MediaStream([picture]) : null;
    press('camera', Boolean(picture), picture ? 'Camera off' : 'Camera on');
  }

  #deviceGone(device) {
    if (device === 'microphone') this.#fail(new Failure('microphone-gone'));
    else this.#pictureGone();
  }

  async #pictureGone() {
    this.#tracks.closePicture();
    this.#showPicture();
    await this.#tracks.sendPicture(this.#call?.peer);
    this.#fail(new Failure('no-camera'));
  }

  async #chosen(name) {
    if (name === 'volume') find('sound').volume = this.#settings.choices.volume;
    if (name === 'speaker') await this.#chooseSpeaker();
    if (name === 'saveBandwidth') await this.#tracks.tunePicture(this.#call?.peer);
    if (name === 'camera' && this.#tracks.picture) {
      await this.#openPicture();
      await this.#tracks.sendPicture(this.#call?.peer);
    }
    if (name === 'microphone' || name === 'headphones') await this.#replaceVoice();
  }

  async #replaceVoice() {
    if (!this.#call || !this.#tracks.voice) return;
    try {
      await this.#call.replaceVoice(await this.#tracks.openVoice());
      if (this.#notice.code === 'microphone-gone') this.#notice.hide();
    } catch (failure) {
      this.#fail(failure);
    }
  }

  // -- what is shown

  #show(state) {
    document.body.dataset.state = state;
    find('status').textContent = STATUS[state];
    label('call', CALL_LABEL[state]);
    const canType = state === 'live';
    for (const field of find('composer').elements) field.disabled = !canType;
    if (state === 'idle') find('clock').textContent = '';
  }

  #fail(failure) {
    if (PASSING.has(failure.code)) this.#redial(failure);
    else this.#notice.show(noticeOf(failure));
  }

  #redial(failure) {
    this.#redials += 1;
    if (this.#redials > MOST_REDIALS) {
      this.#redials = 0;
      this.#notice.show(noticeOf(new Failure('still-not', { detail: failure.detail })));
      return;
    }
    const words = (left) => `Calling again in ${left} s`;
    const notice = { ...noticeOf(failure), detail: '' };
    this.#notice.show(notice, { countdownS: failure.retryAfterS, words, then: () => this.#dial() });
  }

  #act(name, value) {
    if (name !== 'stop') this.#notice.hide();
    if (name === 'call' || name === 'retry') this.#dial();
    else if (name === 'listen') this.#dial({ listenOnly: true });
    else if (name === 'play') find('sound').play();
    else if (name === 'stop') this.#stopRedialling();
    else if (name === 'token') {
      memory.keep(value);
      this.#dial();
    }
  }

  #stopRedialling() {
    this.#redials = 0;
    this.#notice.hide();
  }

  async #tick() {
    if (this.#call?.state !== 'live') return;
    this.#keep(this.#token);
    find('clock').textContent = clock(this.#monitor.ageMs);
    const peer = this.#call.peer;
    const stats = await peer.stats().catch(() => null);
    if (stats && peer === this.#call?.peer) this.#monitor.report(stats);
  }

  #everyTurns() {
    return document.hidden ? EVERY_TURNS_UNSEEN : EVERY_TURNS;
  }

  // -- what the person does, and the machine

  #listen() {
    find('call').addEventListener('click', () => this.#pressedCall());
    find('mute').addEventListener('click', () => this.#mute(!this.#tracks.isMuted));
    find('camera').addEventListener('click', () => this.#togglePicture());
    find('composer').addEventListener('submit', (event) => this.#typed(event));
    find('text').addEventListener('input', () => this.#tellRoom());
    this.#settings.addEventListener('change', ({ detail }) => this.#chosen(detail.name));
    document.addEventListener('visibilitychange', () => this.#call?.subscribe(this.#everyTurns()));
    navigator.mediaDevices?.addEventListener('devicechange', () => this.#devicesChanged());
    window.addEventListener('online', () => this.#call?.networkChanged());
    onTypeOfNetwork(() => this.#call?.networkChanged());
  }

  #pressedCall() {
    this.#redials = 0;
    if (this.#call) this.#call.hangUp();
    else this.#dial();
  }

  #typed(event) {
    event.preventDefault();
    const text = find('text').value.trim();
    if (!text || !this.#call) return;
    if (textBytes(text) > MAX_TEXT_BYTES) return;
    if (!this.#call.sendText(text)) {
      this.#fail(new Failure('text-away'));
      return;
    }
    find('welcome').hidden = true;
    this.#captions.typed(text, this.#monitor.ageMs);
    find('text').value = '';
    this.#tellRoom();
  }

  #tellRoom() {
    const left = MAX_TEXT_BYTES - textBytes(find('text').value.trim());
    const told = left < 0 ? `${-left} bytes too long` : left < ROOM_TOLD_BELOW_BYTES ? `${left} bytes left` : '';
    find('room').textContent = told;
    find('text').setAttribute('aria-invalid', String(left < 0));
  }

  async #devicesChanged() {
    await this.#settings.refresh();
    if (this.#tracks.voice?.readyState === 'ended') await this.#replaceVoice();
  }
}

function label(id, text) {
  find(id).lastElementChild.textContent = text;
}

function press(id, isPressed, text) {
  find(id).dataset.on = isPressed; // seen by its colour; the label says what a press will do
  label(id, text);
}

/** A second tab with the same session must not take the call away from the first. */
function wasReloaded() {
  const type = performance.getEntriesByType('navigation')[0]?.type;
  return type === 'reload' || type === 'back_forward';
}

/** From Wi-Fi to the mobile network: told by some browsers only; estimates of speed change all the time. */
function onTypeOfNetwork(act) {
  const { connection } = navigator;
  let type = connection?.type;
  connection?.addEventListener?.('change', () => {
    if (connection.type === type) return;
    type = connection.type;
    act();
  });
}

new Page().start();
