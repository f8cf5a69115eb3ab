/**
 * The form "Devices and sound": what was chosen, kept for the next visit.
 *
 * Emits `change` with the name of a choice. One rule: the form shows what is in `choices`, never the reverse
 * without an event.
 */

import * as devices from './devices.js';
import { choices, keepChoices } from './memory.js';

const LISTS = { microphone: 'microphone', 'camera-device': 'camera', speaker: 'speaker' };
const CHECKS = { headphones: 'headphones', 'save-bandwidth': 'saveBandwidth' };

export class Settings extends EventTarget {
  #find;

  /** `find(id)` gives an element of the page. */
  constructor(find) {
    super();
    this.#find = find;
    this.choices = choices();
    find('speaker-field').hidden = !devices.canChooseSpeaker();
    for (const [id, name] of Object.entries(LISTS)) this.#listen(id, name, (field) => field.value);
    for (const [id, name] of Object.entries(CHECKS)) {
      find(id).checked = this.choices[name];
      this.#listen(id, name, (field) => field.checked);
    }
    find('volume').value = 100 * this.choices.volume;
    this.#listen('volume', 'volume', (field) => field.valueAsNumber / 100, 'input');
  }

  /** Fill the lists anew: devices come and go, and have names once one was allowed. */
  async refresh() {
    const found = await devices.list();
    for (const [id, name] of Object.entries(LISTS)) this.#fill(this.#find(id), found[name], this.choices[name]);
  }

  #fill(list, found, chosen) {
    const options = found.length ? found : [{ id: '', name: 'System default' }];
    list.replaceChildren(...options.map(({ id, name }) => new Option(name, id, false, id === chosen)));
    list.disabled = options.length < 2;
  }

  #listen(id, name, read, type = 'change') {
    this.#find(id).addEventListener(type, ({ target }) => {
      this.choices = { ...this.choices, [name]: read(target) };
      keepChoices(this.choices);
      this.dispatchEvent(new CustomEvent('change', { detail: { name } }));
    });
  }
}
