/**
 * The conversation as text: what the model says as it is heard, what was cut off, what was typed.
 *
 * The pieces of one stretch of speech stand in one line. One rule: text of others is only ever set as text.
 */

import { clock } from './timeline.js';

const PAUSE_TURNS = 10; // 2 s without a word begin a new line
const MAX_LINES = 400;

/** What was heard of a piece of speech, and what was not: parted at a word, by time. */
export function splitHeard(text, heardMs, turnMs) {
  const share = Math.min(Math.max(heardMs / turnMs, 0), 1);
  const at = Math.round(text.length * share);
  if (at === 0 || at >= text.length) return [text.slice(0, at), text.slice(at)];
  const space = text.lastIndexOf(' ', at);
  return [text.slice(0, Math.max(space, 0)), text.slice(Math.max(space, 0))];
}

export class Captions {
  #list;
  #turnMs = 200;
  #line = null;
  #lastTurn = 0;
  #pieces = new Map();

  /** `list` is an empty element with role log. */
  constructor(list) {
    this.#list = list;
  }

  get isEmpty() {
    return this.#list.childElementCount === 0;
  }

  clear(turnMs = 200) {
    this.#turnMs = turnMs;
    this.#list.replaceChildren();
    this.#line = null;
    this.#pieces.clear();
  }

  /** A piece of what the model says in a turn; a line feed at its end ends the line. */
  add(turn, text) {
    if (!text.trim() && !this.#line) return;
    const follows = this.#line && turn >= this.#lastTurn && turn - this.#lastTurn <= PAUSE_TURNS;
    if (!follows) this.#line = this.#newLine('model', 'Model', turn * this.#turnMs);
    const piece = document.createElement('span');
    piece.textContent = text.replace(/\n$/, '');
    this.#line.append(piece);
    this.#lastTurn = turn;
    this.#remember(turn, piece);
    if (text.endsWith('\n')) this.#line = null;
    this.#scroll();
  }

  /** Speech of a turn was flushed after so much of it was heard; the line ends there. */
  cut(turn, heardMs) {
    const pieces = this.#pieces.get(turn);
    if (!pieces) return; // it was never shown
    for (const piece of pieces) this.#strike(piece, heardMs);
    this.#pieces.delete(turn);
    this.#line = null;
  }

  /** What the caller typed. */
  typed(text, atMs) {
    this.#newLine('you', 'You typed', atMs).append(text);
    this.#line = null;
    this.#scroll();
  }

  /** Something that happened, between the lines. */
  event(text, atMs) {
    const line = this.#newLine('event', '', atMs);
    line.append(text);
    this.#line = null;
    this.#scroll();
  }

  #strike(piece, heardMs) {
    const [heard, cut] = splitHeard(piece.textContent, heardMs, this.#turnMs);
    if (!cut) return;
    const struck = document.createElement('del');
    const spoken = document.createElement('span');
    spoken.className = 'unseen';
    spoken.textContent = ' (cut off: ';
    const end = spoken.cloneNode();
    end.textContent = ')';
    struck.append(spoken, cut, end);
    piece.replaceChildren(heard, struck);
  }

  #remember(turn, piece) {
    this.#pieces.set(turn, [...(this.#pieces.get(turn) ?? []), piece]);
    if (this.#pieces.size > MAX_LINES) this.#pieces.delete(this.#pieces.keys().next().value);
  }

  #newLine(kind, speaker, atMs) {
    const item = document.createElement('div');
    item.className = `line ${kind}`;
    const head = document.createElement('p');
    head.className = 'speaker';
    const when = document.createElement('span');
    when.className = 'when';
    when.textContent = clock(atMs);
    head.append(speaker, ' ', when);
    const words = document.createElement('p');
    words.className = 'words';
    item.append(head, words);
    this.#list.append(item);
    while (this.#list.childElementCount > MAX_LINES) this.#list.firstElementChild.remove();
    return words;
  }

  #scroll() {
    const box = this.#list.parentElement;
    box.scrollTop = box.scrollHeight;
  }
}
