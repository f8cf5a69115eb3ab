/**
 * What this tab remembers: the bearer token and the call to resume in its session, choices for good.
 *
 * One rule: a token is never written anywhere but into this tab's session storage, and never stays in the
 * address bar.
 */

import { RESUME_S } from './call.js';

const TOKEN = 'microturn.token';
const CALL = 'microturn.call';
const CHOICES = 'microturn.choices';

const read = (storage, key) => {
  try {
    return JSON.parse(storage().getItem(key));
  } catch {
    return null; // storage may be off, or hold what we did not write
  }
};
const write = (storage, key, value) => {
  try {
    if (value === null) storage().removeItem(key);
    else storage().setItem(key, JSON.stringify(value));
  } catch {
    // without storage a reload forgets, and nothing else fails
  }
};
const session = () => window.sessionStorage;
const lasting = () => window.localStorage;

let inMemory = null;

/** A token of the address, `#token=...`, is taken over and taken out of the address bar. */
export function takeFromAddress() {
  const fragment = new URLSearchParams(window.location.hash.slice(1));
  const token = fragment.get('token');
  if (token === null) return;
  fragment.delete('token');
  const rest = fragment.toString();
  const { pathname, search } = window.location;
  window.history.replaceState(window.history.state, '', `${pathname}${search}${rest ? `#${rest}` : ''}`);
  keep(token.trim());
}

export const bearer = () => inMemory ?? read(session, TOKEN) ?? '';

export function keep(token) {
  inMemory = token;
  write(session, TOKEN, token || null);
}

/** The call that a reload would resume; told again while it lives, so that its age is known. */
export function keepCall(resume, camera) {
  write(session, CALL, resume ? { resume, camera, seenMs: Date.now() } : null);
}

/** `{ resume, camera }` of a call that was alive within the last 30 s, else null. */
export function callToResume(nowMs = Date.now()) {
  const kept = read(session, CALL);
  if (!kept || typeof kept.resume !== 'string' || !(nowMs - kept.seenMs < 1000 * RESUME_S)) return null;
  return kept;
}

export const DEFAULTS = {
  microphone: '', camera: '', speaker: '', volume: 1, headphones: false, saveBandwidth: true,
};

export function choices() {
  const kept = read(lasting, CHOICES) ?? {};
  return Object.fromEntries(
    Object.entries(DEFAULTS).map(([name, value]) => [name, typeof kept[name] === typeof value ? kept[name] : value]),
  );
}

export const keepChoices = (chosen) => write(lasting, CHOICES, chosen);
