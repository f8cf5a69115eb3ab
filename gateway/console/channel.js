/**
 * The data channel `microturn`, version 1: docs/protocol.md in code.
 *
 * One rule: what comes in is checked here; nothing that this file lets through needs checking again.
 */

export const LABEL = 'microturn';
export const PROTOCOL = 'microturn.v1';
export const VERSION = 1;
export const MAX_TEXT_BYTES = 1000;
export const MAX_EVERY_TURNS = 25;

const ROW = 7;
const encoder = new TextEncoder();

const isNumber = (value) => typeof value === 'number' && Number.isFinite(value);
const isTurn = (value) => Number.isInteger(value) && value >= 0;
const isText = (value) => typeof value === 'string';
const isRow = (row) => Array.isArray(row) && row.length >= ROW && row.every(isNumber);

/** What each type must have; fields beyond it are of a later version, and left alone. */
const SHAPES = {
  hello: (m) => m.version === VERSION && isText(m.call) && isNumber(m.turn_ms) && m.turn_ms > 0,
  caption: (m) => isTurn(m.turn) && isText(m.text),
  cut: (m) => isTurn(m.turn) && isNumber(m.heard_ms),
  action: (m) => isTurn(m.turn) && isText(m.action),
  turns: (m) => isTurn(m.first) && Array.isArray(m.turns) && m.turns.every(isRow),
  heard: (m) => isTurn(m.turn) && isText(m.text),
  task: (m) => isText(m.task) && isText(m.state),
  notice: (m) => isText(m.code),
  error: (m) => isText(m.code),
  bye: (m) => isText(m.reason),
};

/** A message of the gateway; null for one that is not JSON, of an unknown type or without its fields. */
export function parse(data) {
  let message;
  try {
    message = JSON.parse(data);
  } catch {
    return null;
  }
  const shape = Object.hasOwn(SHAPES, message?.type) ? SHAPES[message.type] : null;
  return shape?.(message) ? message : null;
}

/** Length of a text on the wire, in bytes of UTF-8. */
export const textBytes = (text) => encoder.encode(text).length;

/** One RTCDataChannel, opened by us. `onMessage` gets checked messages. */
export class Channel {
  #wire;

  constructor(peer, everyTurns, onMessage) {
    this.#wire = peer.createDataChannel(LABEL, { ordered: true, protocol: PROTOCOL });
    this.#wire.onopen = () => {
      this.#send({ type: 'hello', version: VERSION });
      this.subscribe(everyTurns);
    };
    this.#wire.onmessage = ({ data }) => {
      const message = parse(data);
      if (message) onMessage(message);
    };
  }

  /** Typed text for the next chunk. False when it was not sent: too long, empty or no channel. */
  sendText(text) {
    const size = textBytes(text);
    return size > 0 && size <= MAX_TEXT_BYTES && this.#send({ type: 'text', text });
  }

  /** Ask for statistics every so many turns, 0 for none. */
  subscribe(everyTurns) {
    return this.#send({ type: 'subscribe', every_turns: Math.min(Math.max(everyTurns, 0), MAX_EVERY_TURNS) });
  }

  /** Nobody wants that task any more. */
  withdraw(task) {
    return this.#send({ type: 'withdraw', task });
  }

  bye() {
    return this.#send({ type: 'bye' });
  }

  #send(message) {
    if (this.#wire.readyState !== 'open') return false;
    this.#wire.send(JSON.stringify(message));
    return true;
  }
}
