/**
 * The one place where the page says what went wrong: title, what to do, buttons, and a countdown if any.
 *
 * One rule: one notice at a time; the newer one takes the place.
 */

import { ACTIONS } from './messages.js';

export class Notice {
  #box;
  #next;
  #act;
  #timer = 0;

  /** `box` is an empty element with role alert; `act(name, value)` does what a button says; `next` has focus after. */
  constructor(box, next, act) {
    this.#box = box;
    this.#next = next;
    this.#act = act;
  }

  get isOpen() {
    return !this.#box.hidden;
  }

  get code() {
    return this.#box.dataset.code ?? '';
  }

  /** `notice` is of messages.js. A countdown in seconds runs `then` at its end. */
  show(notice, { countdownS = 0, words = (s) => `${s} s`, then = null } = {}) {
    clearInterval(this.#timer);
    const body = element('div', 'notice-body');
    body.append(element('h2', 'notice-title', notice.title), element('p', 'notice-text', notice.text));
    if (notice.detail) body.append(element('p', 'notice-detail', notice.detail));
    if (countdownS) body.append(this.#countdown(countdownS, words, then));
    if (notice.actions.length) body.append(this.#buttons(notice.actions));
    this.#box.replaceChildren(body);
    this.#box.className = `notice ${notice.tone}`;
    this.#box.dataset.code = notice.code ?? '';
    this.#box.hidden = false;
    this.#box.querySelector('input')?.focus();
  }

  hide() {
    clearInterval(this.#timer);
    if (this.#box.contains(document.activeElement)) this.#next.focus();
    this.#box.hidden = true;
    this.#box.dataset.code = '';
    this.#box.replaceChildren();
  }

  /** Hidden from screen readers: a number a second, read aloud, helps nobody. */
  #countdown(seconds, words, then) {
    const line = element('p', 'notice-countdown');
    line.setAttribute('aria-hidden', 'true');
    const until = performance.now() + 1000 * seconds;
    const tell = () => {
      const left = Math.max(0, Math.ceil((until - performance.now()) / 1000));
      line.textContent = words(left);
      if (left > 0) return;
      clearInterval(this.#timer);
      then?.();
    };
    this.#timer = setInterval(tell, 250);
    line.textContent = words(Math.ceil(seconds));
    return line;
  }

  #buttons(actions) {
    const form = element('form', 'notice-actions');
    const token = actions.includes('token') ? tokenField() : null;
    if (token) form.append(token);
    actions.forEach((name, index) => {
      const button = element('button', index === 0 ? 'button' : 'button quiet', ACTIONS[name]);
      button.type = name === 'token' ? 'submit' : 'button';
      button.dataset.action = name;
      if (name !== 'token') button.addEventListener('click', () => this.#act(name));
      form.append(button);
    });
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      const value = token?.querySelector('input').value.trim();
      if (value) this.#act('token', value);
    });
    return form;
  }
}

function tokenField() {
  const label = element('label', 'field');
  const input = document.createElement('input');
  Object.assign(input, { type: 'password', name: 'token', autocomplete: 'off', spellcheck: false, required: true });
  label.append(element('span', '', 'Token'), input);
  return label;
}

function element(tag, className, text = '') {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}
