/**
 * Every failure that a person can meet here: what happened, what to do, and the buttons that do it.
 *
 * One rule: no text about a failure stands anywhere else.
 */

/** A failure with a code of `FAILURES`; `detail` is what the other side said, `retryAfterS` when it asks to wait. */
export class Failure extends Error {
  constructor(code, { detail = '', retryAfterS = 0 } = {}) {
    super(detail ? `${code}: ${detail}` : code);
    this.code = code;
    this.detail = detail;
    this.retryAfterS = retryAfterS;
  }
}

/** Buttons of a notice, by name. */
export const ACTIONS = {
  call: 'Call again',
  retry: 'Try again',
  listen: 'Call without microphone',
  token: 'Use this token',
  stop: 'Stop trying',
  play: 'Play sound',
  dismiss: 'Close',
};

const error = (title, text, ...actions) => ({ tone: 'error', title, text, actions });
const note = (title, text, ...actions) => ({ tone: 'note', title, text, actions });

export const FAILURES = {
  insecure: error(
    'This page needs a secure connection',
    'Browsers give a microphone only to pages that come over https, or from localhost. Open the page by its https address.',
  ),
  unsupported: error(
    'This browser cannot make calls',
    'It has no WebRTC. Use a current version of Chrome, Edge, Firefox or Safari, and switch off extensions that block WebRTC.',
  ),
  'no-microphone': error(
    'No microphone was found',
    'Plug one in, or switch it on in the system settings, and try again. You can also call without: listen, and type what you want to say.',
    'retry', 'listen',
  ),
  'microphone-denied': error(
    'The microphone is blocked',
    'Allow it with the icon beside the page’s address, and in the system’s privacy settings, then try again.',
    'retry', 'listen',
  ),
  'microphone-busy': error(
    'The microphone does not start',
    'Another program may be using it. Close that program or choose another microphone below, then try again.',
    'retry', 'listen',
  ),
  'microphone-gone': note(
    'The microphone was disconnected',
    'The call goes on, but you are not heard. Plug it in again or choose another one below.',
    'dismiss',
  ),
  'no-camera': note('No camera was found', 'The call goes on with voice. Plug a camera in and switch it on again.', 'dismiss'),
  'camera-denied': note(
    'The camera is blocked',
    'The call goes on with voice. To be seen, allow the camera with the icon beside the page’s address and switch it on again.',
    'dismiss',
  ),
  'camera-busy': note(
    'The camera does not start',
    'The call goes on with voice. Another program may be using the camera: close it, or choose another one below.',
    'dismiss',
  ),
  'camera-unwanted': note('This gateway takes no video', 'The call goes on with voice.', 'dismiss'),
  'no-path': error(
    'No way through for sound',
    'The gateway answered, but no sound or picture reached it: a firewall or VPN is likely in between. Try another network, or ask the operator for a TURN server.',
    'retry',
  ),
  full: error('All lines are busy', 'Every line of the gateway is taken at the moment.', 'stop'),
  'not-ready': error('The gateway is not ready', 'It is starting, or being restarted.', 'stop'),
  'no-such-name': error('Nobody has that name', 'The name behind “to=” in the address of this page is not known here.', 'stop'),
  'too-fast': error('Too many calls in a short time', 'The gateway asks to wait a little.', 'stop'),
  'still-not': error('Still no luck', 'The gateway took none of several calls. Try again in a few minutes.', 'retry'),
  'token-needed': error(
    'This gateway asks for a token',
    'Paste the token that you were given. It is kept in this tab only, until you close it.',
    'token',
  ),
  'token-refused': error(
    'The token was not accepted',
    'It may have expired. Ask for a new one and paste it here. It is kept in this tab only, until you close it.',
    'token',
  ),
  refused: error(
    'The gateway refused the call',
    'It could not use what this browser offers. Use a current browser, or show the words below to the operator.',
    'retry',
  ),
  away: error(
    'The gateway does not answer',
    'Check your connection. If other pages open, the gateway is down or being restarted: try again in a moment.',
    'retry',
  ),
  lost: error(
    'The connection was lost',
    'It could not be restored within 30 seconds, and the call has ended. Check your connection and call again.',
    'call',
  ),
  gone: error('The call could not be continued', 'It has ended at the gateway. Call again to start a new one.', 'call'),
  'cannot-play': note('The browser holds back the sound', 'It waits for a click before it plays anything.', 'play'),
  'no-speaker': note('This speaker cannot be used', 'The sound stays where it was. Choose another speaker below.', 'dismiss'),
  'text-away': note('Not sent', 'The text line of this call is not open yet. Try again in a moment.', 'dismiss'),
  'text-refused': note('Not taken', 'The gateway did not take the text. Send shorter texts, and fewer at a time.', 'dismiss'),
  unexpected: error('Something went wrong in this page', 'Reload it and call again. Show the words below to the operator if it stays.', 'retry'),
};

/** While a lost path is being restored. */
export const RESUMING = note('Reconnecting', 'The connection was interrupted. The gateway keeps your call while this page looks for a way back.');

/** What is said when the other side ends the call, by the reason of its `bye`. */
export const GOODBYES = {
  hangup: note('The call has ended', 'The other side hung up.', 'dismiss'),
  drain: note('The call has ended', 'The gateway is being restarted. Call again in a moment.', 'call', 'dismiss'),
  timeout: note('The call has ended', 'Nothing was heard from this browser for too long. Check the microphone and call again.', 'call', 'dismiss'),
  lost: note('The call has ended', 'The gateway lost the call. Call again to start a new one.', 'call', 'dismiss'),
};

/** What the gateway says while a call goes on; codes that are not here are ignored. */
export const NOTICES = {
  'weak-line': note('The connection is weak', 'Much of what is said is lost on the way. The camera is left out to save what can be saved. Another network, or a place nearer to the access point, may help.', 'dismiss'),
};

/** Codes after which the same call may well succeed in a moment: it is placed again by itself. */
export const PASSING = new Set(['full', 'not-ready', 'too-fast']);

/** Codes after which trying to resume a call is of no use. */
export const FINAL = new Set(['gone', 'token-needed', 'token-refused', 'refused', 'unsupported', 'insecure']);

/** The notice of a failure; an unknown code is our own mistake, and still gets words. */
export function noticeOf(failure) {
  const known = FAILURES[failure.code] ?? FAILURES.unexpected;
  return { ...known, code: failure.code, detail: failure.detail ?? '', retryAfterS: failure.retryAfterS ?? 0 };
}

/** What getUserMedia's error means for a `device` of 'microphone' or 'camera'. */
export function deviceFailure(device, cause) {
  const none = device === 'camera' ? 'no-camera' : 'no-microphone';
  const code = {
    NotFoundError: none,
    DevicesNotFoundError: none,
    NotAllowedError: `${device}-denied`,
    PermissionDeniedError: `${device}-denied`,
    SecurityError: `${device}-denied`,
    OverconstrainedError: none,
  }[cause?.name] ?? `${device}-busy`;
  return new Failure(code);
}
