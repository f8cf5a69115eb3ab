/**
 * What of the camera is sent: on and off in mid-call without a new negotiation, and how much of it.
 *
 * The model looks at 320x240 and at most 10 times a second: more is bandwidth and no sight.
 */

const ENOUGH = { width: 320, height: 240, framerate: 8 };

/** Encoding of a camera of this size: scaled down to what the model sees, never up. */
export function encodingFor({ width = 0, height = 0 } = {}, saveBandwidth = true) {
  if (!saveBandwidth) return { scaleResolutionDownBy: 1, maxFramerate: 30 };
  const scale = Math.min(width / ENOUGH.width, height / ENOUGH.height);
  return { scaleResolutionDownBy: Math.max(1, scale), maxFramerate: ENOUGH.framerate };
}

/** Send this track, or none, by a sender that was negotiated before. */
export async function send(sender, track, saveBandwidth) {
  await sender.replaceTrack(track);
  if (track) await tune(sender, saveBandwidth);
}

/** Apply the choice of bandwidth to what is being sent. */
export async function tune(sender, saveBandwidth) {
  const parameters = sender.getParameters();
  if (!sender.track || !parameters.encodings?.length) return;
  Object.assign(parameters.encodings[0], encodingFor(sender.track.getSettings(), saveBandwidth));
  await sender.setParameters(parameters).catch(() => {}); // a browser that cannot sends it whole
}
