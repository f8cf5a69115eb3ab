/**
 * What is seen of a call's quality: the strip, its text, and the figures.
 *
 * Fed by `turns` messages and by the browser's statistics. Shows, and decides nothing.
 */

import { browserFigures, delayMs, milliseconds, percent } from './stats.js';
import { Strip } from './strip.js';
import { Timeline, describe } from './timeline.js';

const DESCRIBED_SEGMENTS = 40;
const SUMMARY_TURNS = 150; // 30 s

export class Monitor {
  #find;
  #strip;
  #browser = null;
  #gateway = {};

  constructor(find) {
    this.#find = find;
    this.#strip = new Strip(find('strip'));
    this.clear();
    find('as-text').addEventListener('toggle', () => this.#describe());
  }

  clear(turnMs = 200) {
    this.timeline = new Timeline({ turnMs });
    this.#browser = null;
    this.#gateway = {};
    this.#find('turn-ms').textContent = turnMs;
    this.#strip.show(this.timeline);
    this.#figures();
  }

  /** Age of the call by the newest turn told, ms. */
  get ageMs() {
    return (this.timeline.last + 1) * this.timeline.turnMs;
  }

  /** A `turns` message. */
  turns(message) {
    this.timeline.add(message.first, message.turns);
    this.#gateway = message;
    this.#strip.draw();
  }

  cut(turn, heardMs) {
    this.timeline.cut(turn, heardMs);
    this.#strip.draw();
  }

  /** Once a second: the browser's report, and what is not worth doing more often. */
  report(stats) {
    this.#browser = browserFigures(stats, this.#browser);
    this.#figures();
    this.#describe();
  }

  #figures() {
    const browser = this.#browser;
    const gateway = (name) => (Number.isFinite(this.#gateway[name]) ? this.#gateway[name] : null);
    const roundTripMs = browser?.roundTripMs ?? null;
    const delay = delayMs({ roundTripMs, bufferMs: browser?.bufferMs ?? null, gatewayMs: gateway('delay_ms') });
    this.#say('delay', milliseconds(delay));
    this.#say('round-trip', milliseconds(roundTripMs));
    this.#say('path', browser?.path ? `to the gateway, ${browser.path}` : 'to the gateway');
    this.#say('jitter', milliseconds(gateway('jitter_ms')));
    this.#say('jitter-in', milliseconds(browser?.jitterMs ?? null));
    this.#say('loss', percent(gateway('loss')));
    this.#say('loss-in', percent(browser?.lossIn ?? gateway('loss_sent')));
    const camera = browser?.camera;
    this.#say('camera-size', camera ? `${camera.width} × ${camera.height}` : '');
  }

  #describe() {
    const recent = this.timeline.segments(SUMMARY_TURNS);
    this.#find('strip').setAttribute('aria-label', summary(recent, this.timeline.last < 0));
    if (!this.#find('as-text').open) return;
    const lines = this.timeline.segments().slice(-DESCRIBED_SEGMENTS).reverse();
    const items = lines.map((segment) => {
      const item = document.createElement('li');
      item.textContent = describe(segment);
      return item;
    });
    this.#find('segments').replaceChildren(...items);
  }

  #say(id, text) {
    const field = this.#find(id);
    if (field.textContent !== text) field.textContent = text;
  }
}

/** The strip in one sentence. */
export function summary(segments, isEmpty) {
  if (isEmpty) return 'Time line of both sides. Nothing was said yet.';
  const seconds = (who) =>
    Math.round(segments.filter((s) => s.who === who).reduce((sum, s) => sum + s.toMs - s.fromMs, 0) / 1000);
  const cuts = segments.filter((segment) => segment.cut).length;
  const cut = cuts ? ` The model was cut off ${cuts === 1 ? 'once' : `${cuts} times`}.` : '';
  return `Time line of both sides, last 30 seconds: you spoke ${seconds('you')} s, the model ${seconds('model')} s.${cut}`;
}
