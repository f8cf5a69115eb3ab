/**
 * The gateway's HTTP side: WHIP (RFC 9725) with a resume token, and the ICE servers to use.
 *
 * Knows requests and status codes, nothing of media. One rule: whatever goes wrong is a `Failure`.
 */

import { Failure } from './messages.js';

const REQUEST_MS = 10_000;
const RESUME = 'Microturn-Resume';

/** The failure that a status means; `told` is the code that came with it, `hasToken` tells refused from missing. */
export function failureOf(status, { hasToken = false, resuming = false, told = '', detail = '', retryAfterS = 0 } = {}) {
  return new Failure(codeOf(status, hasToken, resuming, told), { detail, retryAfterS });
}

function codeOf(status, hasToken, resuming, told) {
  if (status === 401) return hasToken ? 'token-refused' : 'token-needed';
  if (status === 403) return hasToken ? 'token-refused' : 'refused';
  if (resuming && [404, 409, 410].includes(status)) return 'gone';
  if (status === 429) return 'too-fast';
  if (told === 'no-such-name') return told;
  if (status === 503) return told === 'not-ready' ? 'not-ready' : 'full';
  return status === 404 || status >= 500 ? 'away' : 'refused';
}

/** Seconds of a Retry-After header (RFC 9110 section 10.2.3), in either form; 5 when there is none. */
export function retryAfterS(header, nowMs = Date.now()) {
  if (!header) return 5;
  const seconds = /^\d+$/.test(header) ? Number(header) : (Date.parse(header) - nowMs) / 1000;
  return Number.isFinite(seconds) ? Math.min(Math.max(Math.ceil(seconds), 1), 600) : 5;
}

export class WhipClient {
  #base;
  #to;
  #token;
  #resource = null;
  #etag = '';

  /** `base` is the gateway's URL, `token()` gives the bearer token or '', `to` is who is called: '' is anybody. */
  constructor(base, token, to = '') {
    this.#base = base;
    this.#to = to;
    this.#token = token;
  }

  get hasResource() {
    return this.#resource !== null;
  }

  /** STUN and TURN servers for RTCPeerConnection; none where the gateway names none. */
  async iceServers() {
    const answer = await this.#ask(new URL('ice', this.#base), { cache: 'no-store' });
    if (answer.status === 404) return [];
    if (!answer.ok) throw await this.#failure(answer);
    return (await answer.json().catch(() => ({}))).iceServers ?? [];
  }

  /** POST an offer; gives the answer and the token that resumes this call later. */
  async offer(sdp, resume = '') {
    const headers = { 'Content-Type': 'application/sdp', Accept: 'application/sdp' };
    if (resume) headers[RESUME] = resume;
    const url = new URL('whip', this.#base);
    if (this.#to) url.searchParams.set('to', this.#to);
    const answer = await this.#ask(url, { method: 'POST', headers, body: sdp });
    if (answer.status !== 201) throw await this.#failure(answer, Boolean(resume));
    const location = answer.headers.get('Location');
    if (!location) throw new Failure('refused', { detail: 'the answer has no Location' });
    this.#resource = new URL(location, answer.url || url);
    this.#etag = answer.headers.get('ETag') ?? '';
    return { sdp: await answer.text(), resume: answer.headers.get(RESUME) ?? '' };
  }

  /** Candidates found after the offer. */
  async trickle(fragment) {
    const answer = await this.#patch(fragment, this.#etag || '*');
    if (!answer.ok) throw await this.#failure(answer);
  }

  /** ICE restart (RFC 9725 section 4.3.3); gives the gateway's new credentials and candidates. */
  async restart(fragment) {
    const answer = await this.#patch(fragment, '*');
    if (answer.status !== 200) throw await this.#failure(answer, true);
    this.#etag = answer.headers.get('ETag') ?? this.#etag;
    return answer.text();
  }

  /** DELETE the call. It is over for us whatever the gateway says. */
  async hangUp() {
    const resource = this.#resource;
    this.#resource = null;
    if (!resource) return;
    await this.#ask(resource, { method: 'DELETE', keepalive: true }).catch(() => {});
  }

  #patch(fragment, etag) {
    const headers = { 'Content-Type': 'application/trickle-ice-sdpfrag', 'If-Match': etag };
    return this.#ask(this.#resource, { method: 'PATCH', headers, body: fragment });
  }

  async #ask(url, options) {
    const token = this.#token();
    const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
    try {
      return await fetch(url, { ...options, headers, signal: AbortSignal.timeout(REQUEST_MS) });
    } catch (cause) {
      throw new Failure('away', { detail: cause.name === 'TimeoutError' ? 'no answer within 10 s' : '' });
    }
  }

  async #failure(answer, resuming = false) {
    const problem = await problemOf(answer);
    return failureOf(answer.status, {
      hasToken: Boolean(this.#token()),
      resuming,
      told: problem.code,
      detail: `${answer.status} ${problem.detail}`.trim(),
      retryAfterS: retryAfterS(answer.headers.get('Retry-After')),
    });
  }
}

/** What the gateway says is wrong (RFC 9457), for a person and for a program; '' where it says nothing. */
async function problemOf(answer) {
  try {
    const { detail = '', code = '' } = await answer.json();
    return { detail: String(detail).slice(0, 300), code: String(code) };
  } catch {
    return { detail: '', code: '' };
  }
}
