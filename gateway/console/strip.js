/**
 * The strip: both sides turn by turn on one time line, drawn on a canvas.
 *
 * A turn is a column: the caller's level grows up from the middle, the model's down. What happened to a
 * turn is told by shape as well as by colour. Knows pixels; the arithmetic is timeline.js.
 */

import { FLAGS, clock, height } from './timeline.js';

const COLUMN = 7; // CSS pixels a turn, of which GAP stay empty
const GAP = 2;
const LABELS = 18; // height of the time labels
const MARKS = 12; // room above and below the lanes
const LABEL_EVERY_MS = 5000;

const COLOURS = ['you', 'model', 'concealed', 'cut', 'late', 'line', 'faint', 'held', 'muted'];

export class Strip {
  #canvas;
  #pen;
  #colours = {};
  #timeline = null;
  #pending = false;

  constructor(canvas) {
    this.#canvas = canvas;
    this.#pen = canvas.getContext('2d');
    new ResizeObserver(() => this.draw()).observe(canvas);
    window.matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.draw());
  }

  show(timeline) {
    this.#timeline = timeline;
    this.draw();
  }

  /** How many turns have room. */
  get columns() {
    return Math.max(1, Math.floor(this.#canvas.clientWidth / COLUMN));
  }

  /** Once for any number of calls before the next frame. */
  draw() {
    if (this.#pending) return;
    this.#pending = true;
    requestAnimationFrame(() => {
      this.#pending = false;
      this.#draw();
    });
  }

  #draw() {
    const { clientWidth: width, clientHeight: tall } = this.#canvas;
    if (!width || !tall) return;
    const scale = window.devicePixelRatio || 1;
    this.#canvas.width = Math.round(width * scale);
    this.#canvas.height = Math.round(tall * scale);
    this.#pen.setTransform(scale, 0, 0, scale, 0, 0);
    const style = getComputedStyle(this.#canvas);
    for (const name of COLOURS) this.#colours[name] = style.getPropertyValue(`--${name}`).trim();
    this.#pen.font = `11px ${style.fontFamily}`;
    const geometry = { width, tall, middle: (tall - LABELS) / 2, room: (tall - LABELS) / 2 - MARKS };
    this.#grid(geometry);
    if (this.#timeline?.last >= 0) this.#turns(geometry);
    else this.#hint(geometry);
  }

  #hint({ width, middle }) {
    this.#pen.font = this.#pen.font.replace('11px', '14px');
    this.#pen.fillStyle = this.#colours.muted;
    this.#pen.textAlign = 'center';
    this.#pen.fillText('Who spoke when appears here.', width / 2, middle - 12);
  }

  #grid({ width, middle }) {
    this.#bar(0, middle - 0.5, width, 1, this.#colours.line);
  }

  #turns(geometry) {
    const count = this.columns;
    const rows = this.#timeline.window(count);
    const first = this.#timeline.last - count + 1;
    const left = geometry.width - count * COLUMN;
    rows.forEach((row, index) => {
      const x = left + index * COLUMN;
      this.#label(first + index, x, geometry);
      if (row) this.#column(row, x, geometry);
    });
  }

  #label(turn, x, { tall, middle, room }) {
    const ms = turn * this.#timeline.turnMs;
    if (turn < 0 || ms % LABEL_EVERY_MS) return;
    this.#bar(x - 1, middle - room, 1, 2 * room, this.#colours.faint);
    const text = clock(ms);
    const wide = this.#pen.measureText(text).width;
    if (x + wide > this.#canvas.clientWidth) return;
    this.#pen.fillStyle = this.#colours.muted;
    this.#pen.fillText(text, x, tall - 4);
  }

  #column(row, x, geometry) {
    const wide = COLUMN - GAP;
    const { middle, room } = geometry;
    if (row.flags & FLAGS.held) this.#bar(x - GAP / 2, middle - room, COLUMN, 2 * room, this.#colours.held);
    const up = Math.max(1.5, height(row.inDbov) * room);
    this.#bar(x, middle - 2 - up, wide, up, this.#colours.you, 2);
    this.#caller(row, x, wide, up, geometry);
    this.#model(row, x, wide, geometry);
  }

  /** Made-up sound is hatched over the caller's column; a camera frame is a dot above it. */
  #caller(row, x, wide, up, { middle, room }) {
    const share = Math.min(row.concealedMs / this.#timeline.turnMs, 1);
    if (share > 0 || row.lostPackets > 0) {
      const tall = Math.max(up, 8);
      this.#bar(x, middle - 2 - tall, wide, tall, this.#colours.concealed, 2);
      this.#hatch(x, middle - 2 - tall, wide, tall);
    }
    if (row.flags & FLAGS.video) this.#dot(x + wide / 2, middle - room - 6, 1.5, this.#colours.muted);
  }

  #model(row, x, wide, { middle, room }) {
    const down = Math.max(1.5, height(row.outDbov) * room);
    if (row.flags & FLAGS.missed) {
      this.#cross(x + wide / 2, middle + 10, this.#colours.cut);
    } else if (row.flags & FLAGS.late) {
      this.#triangle(x + wide / 2, middle + 10, this.#colours.late);
    } else {
      this.#bar(x, middle + 2, wide, down, this.#colours.model, 2);
    }
    if (row.flags & FLAGS.cut) {
      const at = x + wide * Math.min(row.heardMs / this.#timeline.turnMs, 1);
      this.#bar(at - 1, middle + 2, 2, room, this.#colours.cut);
      this.#cross(at, middle + room + 6, this.#colours.cut);
    }
  }

  #bar(x, y, wide, tall, colour, radius = 0) {
    this.#pen.fillStyle = colour;
    this.#pen.beginPath();
    this.#pen.roundRect(x, y, wide, tall, Math.min(radius, tall / 2));
    this.#pen.fill();
  }

  #hatch(x, y, wide, tall) {
    this.#pen.save();
    this.#pen.beginPath();
    this.#pen.rect(x, y, wide, tall);
    this.#pen.clip();
    this.#pen.beginPath();
    for (let at = -wide; at < tall; at += 4) {
      this.#pen.moveTo(x, y + at + wide);
      this.#pen.lineTo(x + wide, y + at);
    }
    this.#stroke(this.#colours.line, 1);
    this.#pen.restore();
  }

  #dot(x, y, radius, colour) {
    this.#pen.fillStyle = colour;
    this.#pen.beginPath();
    this.#pen.arc(x, y, radius, 0, 2 * Math.PI);
    this.#pen.fill();
  }

  #cross(x, y, colour) {
    this.#pen.beginPath();
    this.#pen.moveTo(x - 2.5, y - 2.5);
    this.#pen.lineTo(x + 2.5, y + 2.5);
    this.#pen.moveTo(x + 2.5, y - 2.5);
    this.#pen.lineTo(x - 2.5, y + 2.5);
    this.#stroke(colour, 1.5);
  }

  #triangle(x, y, colour) {
    this.#pen.fillStyle = colour;
    this.#pen.beginPath();
    this.#pen.moveTo(x - 3, y - 2.5);
    this.#pen.lineTo(x + 3, y - 2.5);
    this.#pen.lineTo(x, y + 3);
    this.#pen.fill();
  }

  #stroke(colour, width) {
    this.#pen.strokeStyle = colour;
    this.#pen.lineWidth = width;
    this.#pen.stroke();
  }
}
