/**
 * Delay, jitter and loss of a call, from the browser's statistics and the gateway's.
 *
 * Pure: a report in, figures out. One rule: a figure that is not known is null, never 0.
 */

const ms = (seconds) => (Number.isFinite(seconds) ? 1000 * seconds : null);
const share = (part, whole) => (whole > 0 ? Math.min(Math.max(part / whole, 0), 1) : null);

/** What of a `getStats()` report is shown. `before` is what this gave the last time. */
export function browserFigures(report, before = null) {
  const all = [...report.values()];
  const find = (type, kind) => all.find((entry) => entry.type === type && (!kind || entry.kind === kind));
  const voiceIn = find('inbound-rtp', 'audio');
  const voiceOut = find('outbound-rtp', 'audio');
  const cameraOut = find('outbound-rtp', 'video');
  const pair = selectedPair(report, all);
  const counters = countersOf(voiceIn, voiceOut, cameraOut);
  const since = before ? difference(counters, before.counters) : counters;
  return {
    counters,
    roundTripMs: ms(pair?.currentRoundTripTime),
    jitterMs: ms(voiceIn?.jitter),
    bufferMs: since.emitted > 0 ? (1000 * since.buffered) / since.emitted : null,
    lossIn: share(since.lost, since.lost + since.received),
    concealedIn: share(since.concealed, since.samples),
    kbpsOut: before && since.seconds > 0 ? (8 * since.bytes) / since.seconds / 1000 : null,
    path: pathOf(report, pair),
    camera: cameraOut?.frameWidth
      ? { width: cameraOut.frameWidth, height: cameraOut.frameHeight, framerate: cameraOut.framesPerSecond ?? null }
      : null,
  };
}

/** Sum of what is known of the way from mouth to ear beyond the turn itself, ms; null while nothing is. */
export function delayMs({ roundTripMs = null, bufferMs = null, gatewayMs = null }) {
  const known = [roundTripMs, bufferMs, gatewayMs].filter((part) => part !== null);
  return known.length ? known.reduce((sum, part) => sum + part, 0) : null;
}

/** '42 ms', or an en dash. */
export const milliseconds = (value) => (value === null ? '–' : `${Math.round(value)} ms`);

/** '0.4 %'; small losses are not rounded away. */
export function percent(value) {
  if (value === null) return '–';
  const hundredths = 100 * value;
  if (hundredths === 0) return '0 %';
  return hundredths < 0.1 ? '< 0.1 %' : `${hundredths.toFixed(hundredths < 10 ? 1 : 0)} %`;
}

function selectedPair(report, all) {
  const transport = all.find((entry) => entry.type === 'transport' && entry.selectedCandidatePairId);
  return (
    report.get(transport?.selectedCandidatePairId) ??
    all.find((entry) => entry.type === 'candidate-pair' && entry.nominated && entry.state === 'succeeded')
  );
}

function countersOf(voiceIn, voiceOut, cameraOut) {
  return {
    lost: voiceIn?.packetsLost ?? 0,
    received: voiceIn?.packetsReceived ?? 0,
    buffered: voiceIn?.jitterBufferDelay ?? 0,
    emitted: voiceIn?.jitterBufferEmittedCount ?? 0,
    // silence that was made up is no loss: nothing was sent
    concealed: (voiceIn?.concealedSamples ?? 0) - (voiceIn?.silentConcealedSamples ?? 0),
    samples: voiceIn?.totalSamplesReceived ?? 0,
    bytes: (voiceOut?.bytesSent ?? 0) + (cameraOut?.bytesSent ?? 0),
    seconds: (voiceOut?.timestamp ?? 0) / 1000,
  };
}

const difference = (now, before) =>
  Object.fromEntries(Object.entries(now).map(([name, value]) => [name, value - before[name]]));

/** 'direct, udp' or 'relay, tcp'. */
function pathOf(report, pair) {
  const local = report.get(pair?.localCandidateId);
  if (!local) return null;
  const kind = local.candidateType === 'relay' ? 'relay' : 'direct';
  return `${kind}, ${local.relayProtocol ?? local.protocol}`;
}
