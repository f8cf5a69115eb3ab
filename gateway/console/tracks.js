/**
 * The caller's own tracks: the microphone, muted or not, and the camera, on or off.
 *
 * They outlive a connection and not a call. One rule: what is replaced is stopped.
 */

import * as camera from './camera.js';
import * as devices from './devices.js';

export class Tracks {
  #settings;
  #onGone;
  voice = null;
  picture = null;
  isMuted = false;

  /** `onGone('microphone' | 'camera')` when a device was pulled out. */
  constructor(settings, onGone) {
    this.#settings = settings;
    this.#onGone = onGone;
  }

  /** The microphone as chosen, in place of the one before. Throws a Failure. */
  async openVoice() {
    const track = await devices.openMicrophone(this.#settings.choices);
    devices.stop(this.voice);
    track.enabled = !this.isMuted;
    track.onended = () => this.#onGone('microphone');
    this.voice = track;
    return track;
  }

  mute(isMuted) {
    this.isMuted = isMuted;
    if (this.voice) this.voice.enabled = !isMuted;
  }

  /** The camera as chosen, in place of the one before. Throws a Failure. */
  async openPicture() {
    const track = await devices.openCamera(this.#settings.choices);
    devices.stop(this.picture);
    track.onended = () => this.#onGone('camera');
    this.picture = track;
  }

  closePicture() {
    devices.stop(this.picture);
    this.picture = null;
  }

  closeVoice() {
    devices.stop(this.voice);
    this.voice = null;
  }

  /** Send the camera, or nothing, over this connection. */
  async sendPicture(peer) {
    if (peer) await camera.send(peer.cameraSender, this.picture, this.#settings.choices.saveBandwidth);
  }

  async tunePicture(peer) {
    if (peer) await camera.tune(peer.cameraSender, this.#settings.choices.saveBandwidth);
  }
}
