/**
 * Lines over time, as SVG: drawn anew at each look, told in words by whoever holds it.
 *
 * It knows points [atMs, value, value ...] and nothing of what they are. A value of null is a gap.
 */

const SVG = 'http://www.w3.org/2000/svg';
const [LEFT, RIGHT, TOP, BOTTOM] = [46, 10, 8, 20];
const NICE = [1, 2, 2.5, 5, 10];

/** The first round number at or above. */
export function ceiling(value) {
  if (!(value > 0)) return 1;
  const ten = 10 ** Math.floor(Math.log10(value));
  return ten * NICE.find((step) => step * ten >= value * 0.999999);
}

/** Runs of points without a gap, thinned to one a pixel: [[x, y] ...] each. */
export function runs(points, place, from, toMs, width, height, top) {
  const found = [];
  let run = null;
  let lastX = -1;
  for (const point of points) {
    const value = point[place];
    if (point[0] < from) continue;
    if (value === null || value === undefined) { run = null; continue; }
    const x = ((point[0] - from) / (toMs - from)) * width;
    if (run && x - lastX < 0.7) continue;
    if (!run) found.push(run = []);
    run.push([x, height * (1 - Math.min(value / top, 1))]);
    lastX = x;
  }
  return found;
}

export class Plot {
  #svg;

  /** `names` are of the lines; `format` says a value in words; `least` is the top of the scale at least; `bound` a line
   *  not to be crossed. */
  constructor(holder, { names, format, least = 0, bound = null }) {
    Object.assign(this, { names, format, least, bound });
    this.#svg = document.createElementNS(SVG, 'svg');
    this.#svg.setAttribute('class', 'plot');
    this.#svg.setAttribute('role', 'img');
    holder.append(this.#svg);
  }

  draw(points, spanMs, toMs) {
    const [width, height] = [this.#svg.clientWidth || 400, this.#svg.clientHeight || 160];
    const [inner, tall] = [width - LEFT - RIGHT, height - TOP - BOTTOM];
    const from = toMs - spanMs;
    const seen = points.filter(([atMs]) => atMs >= from);
    const most = Math.max(this.least, ...seen.flatMap((point) => point.slice(1)).filter((v) => v !== null));
    const top = ceiling(most);
    this.#svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
    this.#svg.setAttribute('aria-label', this.words(seen.at(-1)));
    const parts = [];
    for (const share of [0, 0.5, 1]) {
      const y = TOP + tall * (1 - share);
      parts.push(this.#line('grid', LEFT, y, width - RIGHT, y), this.#text(LEFT - 6, y + 4, this.format(top * share), 'end'));
    }
    for (const share of [0, 0.5, 1]) {
      const minutes = Math.round((spanMs * (1 - share)) / 60_000 * 10) / 10;
      const anchor = ['start', 'middle', 'end'][share * 2];
      parts.push(this.#text(LEFT + inner * share, height - 4, minutes ? `${minutes} min ago` : 'now', anchor));
    }
    if (this.bound !== null && this.bound <= top) {
      const y = TOP + tall * (1 - this.bound / top);
      parts.push(this.#line('bound', LEFT, y, width - RIGHT, y));
    }
    this.names.forEach((_, index) => {
      for (const run of runs(seen, index + 1, from, toMs, inner, tall, top)) {
        const path = document.createElementNS(SVG, 'path');
        const d = run.map(([x, y], n) => `${n ? 'L' : 'M'}${(LEFT + x).toFixed(1)} ${(TOP + y).toFixed(1)}`).join('');
        path.setAttribute('d', run.length > 1 ? d : `${d}h0.1`);
        path.setAttribute('class', `line-${index}`);
        parts.push(path);
      }
    });
    this.#svg.replaceChildren(...parts);
  }

  /** What it shows now. */
  words(point) {
    if (!point) return 'nothing yet';
    return this.names.map((name, n) => `${name} ${point[n + 1] === null ? '–' : this.format(point[n + 1])}`).join(', ');
  }

  #line(kind, x1, y1, x2, y2) {
    const line = document.createElementNS(SVG, 'line');
    for (const [name, value] of Object.entries({ x1, y1, x2, y2, class: kind })) line.setAttribute(name, value);
    return line;
  }

  #text(x, y, words, anchor) {
    const text = document.createElementNS(SVG, 'text');
    for (const [name, value] of Object.entries({ x, y, 'text-anchor': anchor })) text.setAttribute(name, value);
    text.textContent = words;
    return text;
  }
}
