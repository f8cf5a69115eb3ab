/**
 * Prometheus' text format, and what two looks at it say: rates and quantiles. No clock, no network, no page.
 *
 * One rule: what is not shown is null, never 0.
 */

const SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** A look: `series` by metric, each [{ labels, value }]; `told` has help and type of each. */
export function parse(text) {
  const series = new Map();
  const told = new Map();
  for (const line of text.split('\n')) {
    if (line.startsWith('# ')) {
      const [, what, name, ...rest] = line.split(' ');
      if (what !== 'HELP' && what !== 'TYPE') continue;
      if (!told.has(name)) told.set(name, {});
      told.get(name)[what.toLowerCase()] = rest.join(' ');
      continue;
    }
    const found = SAMPLE.exec(line);
    if (!found) continue;
    const labels = Object.fromEntries([...(found[2] ?? '').matchAll(LABEL)].map(([, name, value]) => [name, value]));
    if (!series.has(found[1])) series.set(found[1], []);
    series.get(found[1]).push({ labels, value: Number(found[3]) });
  }
  return { series, told };
}

const fits = (labels, want) => Object.entries(want).every(([name, value]) => [value].flat().includes(labels[name]));

/** Sum over all series that have these labels; a label may have one of several values. */
export function total(look, name, want = {}) {
  const found = look?.series.get(name)?.filter(({ labels }) => fits(labels, want)) ?? [];
  return found.length ? found.reduce((sum, { value }) => sum + value, 0) : null;
}

/** What a counter grew by; one that began anew since counts from 0. */
export function grown(before, now, name, want = {}) {
  const [a, b] = [total(before, name, want), total(now, name, want)];
  if (a === null || b === null) return null;
  return b >= a ? b - a : b;
}

/** Of two numbers; null without either, or of nothing. */
export const ratio = (a, b) => (a === null || b === null || b <= 0 ? null : a / b);

/** Of what came into a histogram between two looks; within a bucket as if evenly spread. Null when nothing did. */
export function quantile(before, now, q, name, want = {}) {
  const bounds = new Map();
  for (const { labels } of now?.series.get(`${name}_bucket`) ?? []) {
    if (fits(labels, want)) bounds.set(labels.le, labels.le === '+Inf' ? Infinity : Number(labels.le));
  }
  const counts = [...bounds]
    .sort(([, a], [, b]) => a - b)
    .map(([le, bound]) => [bound, grown(before, now, `${name}_bucket`, { ...want, le }) ?? 0]);
  const all = counts.at(-1)?.[1] ?? 0;
  if (!all) return null;
  let [low, below] = [counts[0][0] > 0 ? 0 : counts[0][0], 0];
  for (const [bound, count] of counts) {
    if (count >= q * all) {
      if (bound === Infinity) return low;
      return count === below ? bound : low + ((bound - low) * (q * all - below)) / (count - below);
    }
    [low, below] = [bound, count];
  }
  return low;
}

/** Looks of the last while: all of the newest minute, then one in `thinMs`. */
export class History {
  #looks = [];

  constructor({ keepMs = 900_000, thinMs = 15_000, wholeMs = 60_000 } = {}) {
    Object.assign(this, { keepMs, thinMs, wholeMs });
  }

  add(atMs, look) {
    this.#looks.push({ atMs, look });
    let last = -Infinity;
    this.#looks = this.#looks.filter(({ atMs: then }) => {
      const age = atMs - then;
      const keep = age <= this.wholeMs || (age <= this.keepMs && then - last >= this.thinMs);
      if (keep) last = then;
      return keep;
    });
  }

  get length() {
    return this.#looks.length;
  }

  get newest() {
    return this.#looks.at(-1)?.look ?? null;
  }

  /** The newest look that is at least so old, or the oldest; with how long ago it was, in seconds. */
  ago(ms) {
    const now = this.#looks.at(-1);
    if (!now || this.#looks.length < 2) return { look: null, seconds: 0 };
    const found = this.#looks.findLast(({ atMs }) => now.atMs - atMs >= ms) ?? this.#looks[0];
    return { look: found.look, seconds: (now.atMs - found.atMs) / 1000 };
  }
}
