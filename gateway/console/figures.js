/**
 * The operator's page: /metrics looked at every two seconds, what is wrong, the main figures, and all of them.
 *
 * It keeps what it has seen since it was opened, nothing else; without a Prometheus it is what there is.
 */

import { History, parse } from './exposition.js';
import { figuresOf, wrongsOf } from './operator.js';
import { Plot } from './plot.js';

const METRICS = new URL('../metrics', import.meta.url);
const EVERY_MS = 2_000;
const PATIENCE_MS = 5_000;
const MOST_POINTS = 1_800; // an hour

const find = (id) => document.getElementById(id);
const none = (say) => (value) => (value === null || value === undefined || Number.isNaN(value) ? '–' : say(value));
const whole = none((n) => Math.round(n).toLocaleString('en'));
const digits = (places) => none((n) => n.toFixed(places));
const percent = none((n) => `${(100 * n).toFixed(n && n < 0.1 ? 2 : 0)} %`);
const seconds = none((n) => (n === 0 ? '0' : n < 1 ? `${(1000 * n).toFixed(n < 0.01 ? 1 : 0)} ms` : `${n.toFixed(1)} s`));
const short = none((n) => (n >= 1000 ? `${(n / 1000).toFixed(1)}k` : Number(n.toPrecision(2)).toString()));

/** [id, what it is, how it is said, state: '' good, 'warn', 'bad']. */
const TILES = [
  ['live', 'Live calls', whole, () => ''],
  ['free', 'Would be taken', whole, (f) => (f.free === 0 ? 'bad' : f.load > 0.9 ? 'warn' : '')],
  ['unheardLong', 'Turns not heard', percent, (f) => (f.unheardLong > 0.001 ? 'bad' : f.unheardLong > 0.0005 ? 'warn' : '')],
  ['stepP99', 'Step, 99 of 100', seconds, (f) => (f.stepP99 > 0.2 ? 'bad' : f.stepP99 > 0.1 ? 'warn' : '')],
  ['setupP95', 'Set-up, 95 of 100', seconds, (f) => (f.setupP95 > 3 ? 'bad' : f.setupP95 > 1 ? 'warn' : '')],
  ['mos', 'MOS, half of the lines', digits(1), (f) => (f.mos !== null && f.mos < 3.3 ? 'bad' : f.mos !== null && f.mos < 3.6 ? 'warn' : '')],
  ['refusedPerMinute', 'Refused a minute', digits(1), (f) => (f.refusedForRoom > 0.01 ? 'warn' : '')],
  ['lost', 'Lost with a worker', whole, (f) => (f.lost > 0 ? 'bad' : '')],
];
const PLOTS = [
  ['calls', { names: ['live', 'would be taken'], format: short, least: 5 }, (f) => [f.live, f.free]],
  ['unheard', { names: ['not heard'], format: percent, least: 0.002, bound: 0.001 }, (f) => [f.unheard]],
  ['steps', { names: ['half', '99 of 100'], format: seconds, least: 0.005, bound: 0.2 }, (f) => [f.stepP50, f.stepP99]],
  ['traffic', { names: ['answered', 'ended', 'refused'], format: short, least: 1 },
    (f) => [60 * (f.answered ?? 0), 60 * (f.ended ?? 0), f.refusedPerMinute]],
  ['sound', { names: ['made up', 'lost, worst 5 of 100'], format: percent, least: 0.02 }, (f) => [f.concealed, f.lossP95]],
  ['jitter', { names: ['95 of 100'], format: seconds, least: 0.02 }, (f) => [f.jitterP95]],
];
const PARTS = [
  ['Model server', (f) => [f.model, f.shedding > 0 ? 'leaves something out' : 'answers', 'does not answer']],
  ['Workers', (f) => [f.workers, `${f.workers} ready`, 'none']],
  ['Redis', (f) => [f.state, f.buffered ? `${whole(f.buffered)} records wait` : 'answers', 'does not answer']],
  ['Webhooks', (f) => [f.waiting === null ? null : 1, f.waiting ? `${short(f.waiting)}B wait` : 'nothing waits', '']],
  ['Trunks', (f) => [f.trunks ? (f.trunksAway > 0 ? 0 : 1) : null, 'registered', `${f.trunksAway} not registered`]],
  ['Scanners', (f) => [1, f.notHeard ? `${short(f.notHeard)} messages a second not heard` : 'none', '']],
];

/** Further engines, in the same form as `PARTS`. */
const engineParts = ({ engines }) => engines.map(({ engine, up, live, free, stepP99 }) => [`Engine ${engine}`,
  () => [up, `${whole(live)} calls, ${whole(free)} would be taken${stepP99 ? `, step ${seconds(stepP99)}` : ''}`,
    'no model server']]);

class Page {
  #history = new History();
  #points = PLOTS.map(() => []);
  #plots = PLOTS.map(([id, options]) => new Plot(find(`plot-${id}`), options));
  #span = 300_000;
  #since = 0; // when it stopped to answer
  #filter = '';

  constructor() {
    find('tiles').replaceChildren(...TILES.map(([id, title]) => {
      const tile = document.createElement('div');
      tile.id = `tile-${id}`;
      const [dt, dd] = [document.createElement('dt'), document.createElement('dd')];
      dt.textContent = title;
      dd.textContent = '–';
      tile.append(dt, dd);
      return tile;
    }));
    PLOTS.forEach(([id, { names }]) => find(`legend-${id}`).replaceChildren(...names.map((name, n) => {
      const entry = document.createElement('li');
      const swatch = document.createElement('span');
      swatch.className = `swatch line-${n}`;
      entry.append(swatch, name);
      return entry;
    })));
    find('span').addEventListener('change', (event) => { this.#span = 60_000 * Number(event.target.value); this.#show(); });
    find('filter').addEventListener('input', (event) => { this.#filter = event.target.value.trim().toLowerCase(); this.#list(); });
    find('all').addEventListener('toggle', () => this.#list());
    addEventListener('resize', () => this.#show());
  }

  async run() {
    for (;;) {
      const began = performance.now();
      await this.#look();
      await new Promise((done) => { setTimeout(done, Math.max(200, EVERY_MS - (performance.now() - began))); });
    }
  }

  async #look() {
    try {
      const answer = await fetch(METRICS, { signal: AbortSignal.timeout(PATIENCE_MS), cache: 'no-store' });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      this.#take(Date.now(), parse(await answer.text()));
    } catch (wrong) {
      this.#since ||= Date.now();
      const waited = Math.round((Date.now() - this.#since) / 1000);
      find('status').textContent = `No answer for ${waited} s`;
      find('status').title = String(wrong?.message ?? wrong);
      document.body.dataset.state = 'away';
    }
  }

  #take(atMs, look) {
    this.#since = 0;
    this.#history.add(atMs, look);
    const figures = figuresOf(this.#history);
    figures.refusedPerMinute = Object.values(figures.refused).reduce((sum, each) => sum + each, 0);
    const isKnown = this.#history.length > 1; // rates need two looks
    PLOTS.forEach(([, , values], n) => {
      this.#points[n].push([atMs, ...values(figures).map((each) => (isKnown || n === 0 ? each ?? null : null))]);
      this.#points[n].splice(0, Math.max(0, this.#points[n].length - MOST_POINTS));
    });
    this.#tell(figures, atMs);
    this.#show(atMs);
    this.#list();
  }

  #tell(figures, atMs) {
    const wrongs = wrongsOf(figures, atMs / 1000);
    document.body.dataset.state = wrongs.some(({ grave }) => grave) ? 'bad' : wrongs.length ? 'warn' : 'good';
    find('status').textContent = figures.ready ? 'Takes calls' : 'Takes no calls';
    find('at').textContent = new Date(atMs).toLocaleTimeString('en-GB');
    find('version').textContent = figures.version;
    for (const [id, , say, state] of TILES) {
      const tile = find(`tile-${id}`);
      tile.dataset.state = state(figures);
      tile.querySelector('dd').textContent = say(figures[id]);
    }
    find('wrongs').replaceChildren(...wrongs.map(({ grave, text, page }) => {
      const entry = document.createElement('li');
      entry.dataset.state = grave ? 'bad' : 'warn';
      const more = document.createElement('span');
      more.className = 'page';
      more.textContent = `docs/operations.md: ${page}`;
      entry.append(text, more);
      return entry;
    }));
    find('well').hidden = wrongs.length > 0;
    find('parts').replaceChildren(...[...PARTS, ...engineParts(figures)].map(([title, say]) => {
      const [holds, good, bad] = say(figures);
      const entry = document.createElement('div');
      entry.dataset.state = holds === null ? 'none' : holds ? '' : 'bad';
      const [dt, dd] = [document.createElement('dt'), document.createElement('dd')];
      dt.textContent = title;
      dd.textContent = holds === null ? 'not set' : holds ? good : bad;
      entry.append(dt, dd);
      return entry;
    }));
    const refused = Object.entries(figures.refused).sort(([, a], [, b]) => b - a).slice(0, 5);
    find('refused').textContent = refused.map(([why, each]) => `${why} ${each.toFixed(1)}`).join(', ') || 'nobody';
  }

  #show(atMs = Date.now()) {
    this.#plots.forEach((plot, n) => plot.draw(this.#points[n], this.#span, atMs));
  }

  /** Every figure, as it is; only while it is open. */
  #list() {
    const look = this.#history.newest;
    if (!find('all').open || !look) return;
    const rows = [];
    for (const [name, series] of look.series) {
      if (name.endsWith('_bucket')) continue;
      const base = name.replace(/_(sum|count)$/, '');
      const help = look.told.get(name)?.help ?? look.told.get(base)?.help ?? '';
      for (const { labels, value } of series) {
        const label = Object.entries(labels).map(([key, each]) => `${key}=${each}`).join(' ');
        if (this.#filter && !`${name} ${label} ${help}`.toLowerCase().includes(this.#filter)) continue;
        const row = document.createElement('tr');
        row.append(...[name.replace('microturn_', ''), label, value.toLocaleString('en'), help].map((words) => {
          const cell = document.createElement('td');
          cell.textContent = words;
          return cell;
        }));
        rows.push(row);
      }
    }
    find('rows').replaceChildren(...rows);
    find('shown').textContent = `${rows.length} figures`;
  }
}

new Page().run();
