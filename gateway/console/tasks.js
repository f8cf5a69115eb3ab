/**
 * What the model has handed off while it goes on talking: a row for each task, with how far it is.
 *
 * One rule: text of others is only ever set as text.
 */

const STATES = {
  asked: 'Waiting',
  running: 'Working',
  done: 'Done',
  failed: 'Failed',
  cancelled: 'Withdrawn',
};
const OPEN = new Set(['asked', 'running']);
const MOST_ROWS = 8;
const MOST_LETTERS = 2000;

export const stateOf = (state) => STATES[state] ?? state;

/** What a task is after one more message; `text` is a piece of its result. */
export function after(task, { state, text = '', note = '', request = '' }) {
  return {
    state,
    request: task?.request || String(request),
    text: `${task?.text ?? ''}${text}`.slice(0, MOST_LETTERS),
    note: String(note),
  };
}

export class Tasks {
  #list;
  #withdraw;
  #rows = new Map();

  /** `list` is an empty ul; `withdraw` gets the name of a task that nobody wants any more. */
  constructor(list, withdraw) {
    this.#list = list;
    this.#withdraw = withdraw;
  }

  clear() {
    this.#rows.clear();
    this.#list.replaceChildren();
    this.#list.hidden = true;
  }

  /** The call is over, and with it whatever it waited for. */
  end() {
    for (const [name, row] of this.#rows) if (OPEN.has(row.task.state)) this.take({ task: name, state: 'cancelled' });
  }

  take(message) {
    const row = this.#rows.get(message.task) ?? this.#newRow(message.task);
    row.task = after(row.task, message);
    const { state, request, text, note } = row.task;
    row.item.dataset.state = state;
    row.state.textContent = note ? `${stateOf(state)}: ${note}` : stateOf(state);
    row.request.textContent = request;
    row.text.textContent = text;
    row.button.hidden = !OPEN.has(state);
  }

  #newRow(name) {
    const make = (tag, kind) => Object.assign(document.createElement(tag), { className: kind });
    const row = {
      task: null,
      item: make('li', 'task'),
      state: make('span', 'task-state'),
      request: make('span', 'task-request'),
      text: make('p', 'task-text'),
      button: make('button', 'button'),
    };
    row.button.type = 'button';
    row.button.textContent = 'Withdraw';
    row.button.addEventListener('click', () => this.#withdraw(name));
    row.item.append(row.state, ' ', row.request, row.button, row.text);
    this.#rows.set(name, row);
    this.#list.append(row.item);
    this.#list.hidden = false;
    if (this.#rows.size > MOST_ROWS) this.#drop(this.#rows.keys().next().value);
    return row;
  }

  #drop(name) {
    this.#rows.get(name).item.remove();
    this.#rows.delete(name);
  }
}
