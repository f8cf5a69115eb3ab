/**
 * Turn by turn, what was said on both sides: the arithmetic of the strip, without a pixel.
 *
 * A turn is one column. Rows come in any order and may leave gaps; what is older than the limit is
 * forgotten. One rule: a turn that was never told is null, not silence.
 */

export const FLAGS = { held: 1, missed: 2, late: 4, cut: 8, video: 16 };
export const SPEECH_DBOV = -50; // above it a turn counts as speech
const FLOOR_DBOV = -60;
const TOP_DBOV = -6;
const PAUSE_TURNS = 3; // a pause shorter than this does not part two segments

/** A row of a `turns` message by name (docs/protocol.md). */
export function readRow([inDbov, outDbov, concealedMs, lostPackets, droppedMs, heardMs, flags]) {
  return { inDbov, outDbov, concealedMs, lostPackets, droppedMs, heardMs, flags };
}

/** Level 0..1 of a column. */
export function height(dbov) {
  return Math.min(Math.max((dbov - FLOOR_DBOV) / (TOP_DBOV - FLOOR_DBOV), 0), 1);
}

/** 75000 -> '1:15'. */
export function clock(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, '0')}`;
}

export class Timeline {
  #rows = new Map();
  #limit;

  constructor({ turnMs = 200, limit = 3000 } = {}) {
    this.turnMs = turnMs;
    this.#limit = limit;
    this.last = -1;
  }

  /** Rows of the turns first, first + 1, ... */
  add(first, rows) {
    rows.forEach((row, index) => this.#rows.set(first + index, readRow(row)));
    this.last = Math.max(this.last, first + rows.length - 1);
    for (const turn of this.#rows.keys()) if (turn <= this.last - this.#limit) this.#rows.delete(turn);
  }

  /** The speech of a turn was cut. */
  cut(turn, heardMs) {
    const row = this.#rows.get(turn);
    if (row) Object.assign(row, { heardMs, flags: row.flags | FLAGS.cut });
  }

  get(turn) {
    return this.#rows.get(turn) ?? null;
  }

  /** The newest `count` turns, oldest first; null where nothing was told. */
  window(count) {
    return Array.from({ length: count }, (_, index) => this.get(this.last - count + 1 + index));
  }

  /** Who spoke from when to when, and what happened to it: `{ who, fromMs, toMs, cut, concealedMs, missed }`. */
  segments(count = this.#limit) {
    const from = Math.max(0, this.last - count + 1);
    const found = [...this.#ofSide('you', from), ...this.#ofSide('model', from)];
    return found.sort((a, b) => a.fromMs - b.fromMs);
  }

  #ofSide(who, from) {
    const found = [];
    let open = null;
    for (let turn = from; turn <= this.last; turn += 1) {
      const row = this.get(turn);
      if (!row || !speaks(who, row)) continue;
      if (!open || turn - open.lastTurn > PAUSE_TURNS) {
        open = { who, fromMs: turn * this.turnMs, cut: false, concealedMs: 0, missed: 0 };
        found.push(open);
      }
      Object.assign(open, { lastTurn: turn, toMs: (turn + 1) * this.turnMs });
      if (who === 'you') open.concealedMs += row.concealedMs;
      else open.cut ||= Boolean(row.flags & FLAGS.cut);
      if (who === 'model' && row.flags & (FLAGS.missed | FLAGS.late)) open.missed += 1;
    }
    return found.map(({ lastTurn, ...segment }) => segment);
  }
}

/** One sentence for a segment. */
export function describe(segment) {
  const span = `${clock(segment.fromMs)} to ${clock(segment.toMs + 999)}`; // whole seconds, the last one begun
  const parts = [`${segment.who === 'you' ? 'You' : 'The model'} spoke, ${span}`];
  if (segment.cut) parts.push('and was cut off');
  if (segment.concealedMs) parts.push(`${Math.round(segment.concealedMs)} ms concealed`);
  if (segment.missed) parts.push(segment.missed === 1 ? 'one turn missing' : `${segment.missed} turns missing`);
  return `${parts.join(', ')}.`;
}

function speaks(who, row) {
  const level = who === 'you' ? row.inDbov : row.outDbov;
  return level > SPEECH_DBOV || (who === 'model' && Boolean(row.flags & (FLAGS.cut | FLAGS.missed | FLAGS.late)));
}
