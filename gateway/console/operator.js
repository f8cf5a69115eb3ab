/**
 * What an operator looks at, from looks at /metrics: numbers, lines, and what is wrong. Pure.
 *
 * The same figures and bounds as the alert rules of the chart (files/rules.yaml); `page` is the incident page of
 * docs/operations.md. One rule: a figure that is not there is not good and not bad.
 */

import { grown, quantile, ratio, total } from './exposition.js';

const M = 'microturn_';
export const RECENT_MS = 60_000;
export const LONG_MS = 900_000;
const USUAL = { engine: undefined }; // figures of further engines have their name
const NO_ROOM = ['busy', 'full', 'not-ready', 'worker', 'no-room', 'slots', 'predicted', 'overload'];

/** All numbers of now. Rates are a second, over the last minute; `history` has two looks or more for them. */
export function figuresOf(history) {
  const now = history.newest;
  const { look: before, seconds } = history.ago(RECENT_MS);
  const { look: longAgo } = history.ago(LONG_MS);
  const value = (name, want) => total(now, M + name, want);
  const rate = (name, want) => ratio(grown(before, now, M + name, want), seconds);
  const recent = (name, want) => grown(before, now, M + name, want);
  const free = value('predicted_free_calls', USUAL);
  const live = value('calls_live');
  const ofUsual = value('engine_calls', USUAL) ?? live;
  const refused = {};
  for (const { labels } of now?.series.get(`${M}admission_refused_total`) ?? []) {
    const each = rate('admission_refused_total', { ...USUAL, ...labels });
    if (each) refused[`${labels.by}: ${labels.reason}${labels.engine ? ` (${labels.engine})` : ''}`] = 60 * each;
  }
  return {
    live, free, refused,
    load: ofUsual === null || free === null ? null : ratio(ofUsual, ofUsual + free),
    engines: (now?.series.get(`${M}model_up`) ?? []).filter(({ labels }) => labels.engine)
      .map(({ labels: { engine }, value: up }) => ({
        engine, up, live: value('engine_calls', { engine }), free: value('predicted_free_calls', { engine }),
        stepP99: quantile(before, now, 0.99, `${M}model_step_seconds`, { engine }),
      })),
    ready: value('ready'),
    workers: value('workers_ready'),
    answered: rate('calls_answered_total'),
    ended: rate('calls_ended_total'),
    lost: grown(longAgo, now, `${M}calls_lost_total`),
    unheard: ratio(recent('turns_missed_total'), recent('turns_cut_total')),
    unheardLong: ratio(grown(longAgo, now, `${M}turns_missed_total`), grown(longAgo, now, `${M}turns_cut_total`)),
    refusedForRoom: rate('admission_refused_total', { reason: NO_ROOM }),
    setupP95: quantile(longAgo, now, 0.95, `${M}setup_seconds`),
    model: value('model_up', USUAL),
    shedding: value('model_shedding', USUAL),
    stepP50: quantile(before, now, 0.5, `${M}model_step_seconds`, USUAL),
    stepP99: quantile(before, now, 0.99, `${M}model_step_seconds`, USUAL),
    overdue: ratio(recent('model_turns_overdue_total'), recent('turns_total')),
    mos: quantile(longAgo, now, 0.5, `${M}call_mos`),
    mosP10: quantile(longAgo, now, 0.1, `${M}call_mos`),
    jitterP95: quantile(longAgo, now, 0.95, `${M}call_jitter_seconds`),
    lossP95: quantile(longAgo, now, 0.95, `${M}call_loss_ratio`),
    concealed: ratio(recent('concealed_seconds_total'), 0.2 * (recent('turns_cut_total') ?? 0)),
    packetsLost: rate('packets_lost_total'),
    noRtp: grown(longAgo, now, `${M}rtp_timeouts_total`),
    state: value('state_connected'),
    buffered: value('state_buffered'),
    dropped: grown(longAgo, now, `${M}state_dropped_total`),
    spool: ratio(value('events_spool_bytes'), value('events_spool_limit_bytes')),
    waiting: value('webhook_waiting_bytes'),
    uploadWaitS: value('recordings_to_upload_oldest_seconds'),
    tasksFailed: ratio(grown(longAgo, now, `${M}tasks_failed_total`), grown(longAgo, now, `${M}tasks_asked_total`)),
    trunks: value('trunks_to_register'),
    trunksAway: (value('trunks_to_register') ?? 0) - (value('trunks_registered') ?? 0),
    notHeard: ['scanners', 'strangers', 'limited', 'silenced'].reduce((s, n) => s + (rate(`guard_${n}_total`) ?? 0), 0),
    certificateEnds: Math.min(...(now?.series.get(`${M}certificate_expiry_timestamp_seconds`) ?? [])
      .map(({ value: each }) => each), Infinity),
    bugs: ['calls_broken', 'edge_errors', 'ice_errors', 'v1_broken']
      .reduce((sum, name) => sum + (grown(longAgo, now, `${M}${name}_total`) ?? 0), 0),
    version: now?.series.get(`${M}build_info`)?.[0]?.labels.version ?? '',
  };
}

/** What is wrong now: [{ grave, text, page }], the gravest first. `unix` is the time in seconds. */
export function wrongsOf(f, unix) {
  const found = [];
  const add = (holds, grave, text, page) => holds && found.push({ grave, text, page });
  const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 2 : 0)} %`;
  add(f.model === 0, true, 'The model server does not answer: callers hear a comfort sound', 'Model server');
  for (const { engine, up } of f.engines ?? []) {
    add(!up, false, `Engine ${engine} has no model server: its calls are refused, all others are taken`, 'Model server');
  }
  add(f.ready === 0, true, 'New calls are not taken', 'Calls refused');
  add(f.unheard > 0.0144, true, `${percent(f.unheard)} of the turns of the last minute were not heard`, 'Late turns');
  add(f.unheard <= 0.0144 && f.unheardLong > 0.001, false,
    `${percent(f.unheardLong)} of the turns of the last quarter of an hour were not heard`, 'Late turns');
  add(f.lost > 0, true, `${f.lost} calls were lost with their worker in the last quarter of an hour`, 'Calls lost');
  add(f.state === 0, true, 'Redis does not answer: what is to be kept waits here', 'State store down');
  add(f.dropped > 0, true, `${f.dropped} records of calls had no room and are lost`, 'State store down');
  add(f.noRtp > 3, true, `${f.noRtp} calls ended since no sound came`, 'One-way audio');
  add(f.refusedForRoom > 0.01, false, `${(60 * f.refusedForRoom).toFixed(1)} calls a minute are refused for want of room`,
    'Calls refused');
  add(f.load > 0.9, false, `Nearly full: ${percent(f.load)} of the calls that would be taken are there`, 'Calls refused');
  add(f.shedding > 0, false, `Something is left out to keep up: ${['', 'pictures', 'tokens', 'new calls'][f.shedding]}`,
    'Late turns');
  add(f.overdue > 0.001, false, `${percent(f.overdue)} of the replies come after their budget`, 'Late turns');
  add(f.mosP10 !== null && f.mosP10 < 3.3, false, `One line in ten has a MOS of ${f.mosP10?.toFixed(1)} or less`,
    'Bad lines');
  add(f.trunksAway > 0, false, `${f.trunksAway} trunks are not registered`, 'Calls refused');
  add(f.spool > 0.5, false, `Events wait: ${percent(f.spool)} of their room is used`, 'Webhooks late');
  add(f.uploadWaitS > 3600, false, 'Recordings wait for more than an hour to be uploaded', 'Recordings wait');
  add(f.tasksFailed > 0.2, false, `${percent(f.tasksFailed)} of the work that models hand off fails`,
    'Background work fails');
  add(f.certificateEnds - unix < 14 * 86_400, false,
    `A certificate ends in ${Math.max(0, Math.floor((f.certificateEnds - unix) / 86_400))} days`, 'Certificates expire');
  add(f.bugs > 0, false, 'A bug of microturn: the log has it', 'Calls lost');
  return found.sort((a, b) => b.grave - a.grave);
}
