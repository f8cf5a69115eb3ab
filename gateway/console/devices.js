/**
 * Microphones, cameras and speakers: which there are, which was chosen, and how to open them.
 *
 * One rule: a track that this gave out is ended by `stop` only, so that no lamp stays on.
 */

import { Failure, deviceFailure } from './messages.js';

export const KINDS = { microphone: 'audioinput', camera: 'videoinput', speaker: 'audiooutput' };
const NAMES = { audioinput: 'Microphone', videoinput: 'Camera', audiooutput: 'Speaker' };

/** Why calls cannot be made here at all: a Failure, or null. */
export function obstacle() {
  if (!window.isSecureContext) return new Failure('insecure');
  if (!window.RTCPeerConnection || !navigator.mediaDevices) return new Failure('unsupported');
  return null;
}

export const canChooseSpeaker = () => 'setSinkId' in HTMLMediaElement.prototype;

/** Constraints of a microphone. With headphones there is no echo to cancel: the voice goes as it is. */
export function voiceConstraints({ microphone = '', headphones = false } = {}) {
  const processed = !headphones;
  return {
    channelCount: { ideal: 1 },
    echoCancellation: processed,
    noiseSuppression: processed,
    autoGainControl: processed,
    ...(microphone ? { deviceId: { ideal: microphone } } : {}),
  };
}

export function cameraConstraints({ camera = '', saveBandwidth = true } = {}) {
  return {
    width: { ideal: 640 },
    height: { ideal: 480 },
    frameRate: { ideal: saveBandwidth ? 10 : 30, max: 30 },
    ...(camera ? { deviceId: { ideal: camera } } : {}),
  };
}

/** A track of the microphone. Throws a Failure. */
export const openMicrophone = (choice) => open('microphone', { audio: voiceConstraints(choice) });

/** A track of the camera. Throws a Failure. */
export const openCamera = (choice) => open('camera', { video: cameraConstraints(choice) });

export function stop(track) {
  if (!track) return;
  track.onended = null;
  track.stop();
}

/** Devices by role, each with an id and a name; names are known once one of the kind was allowed. */
export async function list() {
  const all = await navigator.mediaDevices.enumerateDevices();
  const ofKind = (kind) =>
    all
      .filter((device) => device.kind === kind && device.deviceId)
      .map((device, index) => ({ id: device.deviceId, name: device.label || `${NAMES[kind]} ${index + 1}` }));
  return Object.fromEntries(Object.entries(KINDS).map(([role, kind]) => [role, ofKind(kind)]));
}

async function open(device, constraints) {
  try {
    const stream = await navigator.mediaDevices.getUserMedia(constraints);
    return stream.getTracks()[0];
  } catch (cause) {
    throw deviceFailure(device, cause);
  }
}
