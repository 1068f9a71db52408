// The field in a cell that is being edited: a list for an enum, else text. Enter takes the value, Escape
// leaves it, Tab takes it and goes on; a value that is not one of the column's type is not taken, and it
// is said why.

import { announce, element } from './dom.js';
import { fromText, toText } from './values.js';

const NULL = ' null';

export class Editor {
  #column;
  #before;
  #told;
  #isOpen = true;

  /** Edits `value`, beginning with `text` if there is one. `told`: `commit(value)`, `closed(hadFocus, move)`. */
  constructor(cell, column, value, text, told) {
    this.#column = column;
    this.#before = value;
    this.#told = told;
    this.element = column.kind === 'enum' ? this.#list() : this.#field(text);
    this.element.setAttribute('aria-label', column.name);
    this.element.addEventListener('keydown', (event) => this.#onKey(event));
    this.element.addEventListener('blur', () => this.#onBlur());
    cell.append(this.element);
    this.element.focus();
    if (text === null) this.element.select?.();
  }

  /** Whether it is somewhere in `node`. */
  isIn(node) {
    return node.contains(this.element);
  }

  /** Ends without a change. */
  close(hadFocus = false, move = 0) {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.element.remove();
    this.#told.closed(hadFocus, move);
  }

  #list() {
    const options = this.#column.labels.map((label) => element('option', { value: label, textContent: label }));
    if (!this.#column.notNull) options.push(element('option', { value: NULL, textContent: 'null' }));
    const list = element('select', { className: 'editor' }, ...options);
    list.value = this.#before ?? NULL;
    return list;
  }

  #field(text) {
    const field = element('textarea', {
      className: 'editor',
      rows: 1,
      spellcheck: false,
      value: text ?? toText(this.#before),
      inputMode: ['integer', 'float'].includes(this.#column.kind) ? 'decimal' : 'text',
    });
    const grow = () => {
      field.style.height = 'auto';
      field.style.height = `${Math.min(field.scrollHeight + 2, 160)}px`;
    };
    field.addEventListener('input', () => {
      field.removeAttribute('aria-invalid');
      field.setCustomValidity('');
      grow();
    });
    requestAnimationFrame(grow);
    return field;
  }

  #value() {
    const text = this.element.value;
    const isText = this.#column.kind === 'text';
    if (text === NULL || (text === '' && !isText && !this.#column.notNull)) return null;
    // An empty field that was null and was not touched stays so.
    if (text === '' && this.#before === null) return null;
    return fromText(this.#column, text);
  }

  /** Takes what is written; false if it is no value of the column. */
  #commit(hadFocus, move) {
    let value;
    try {
      value = this.#value();
    } catch (error) {
      this.element.setAttribute('aria-invalid', 'true');
      this.element.title = error.message;
      announce(`${this.#column.name}: ${error.message}`);
      return false;
    }
    this.close(hadFocus, move);
    if (JSON.stringify(value) !== JSON.stringify(this.#before)) this.#told.commit(value);
    return true;
  }

  #onKey(event) {
    event.stopPropagation();
    if (event.key === 'Escape') this.close(true);
    else if (event.key === 'Enter' && !event.shiftKey) this.#commit(true, 0);
    else if (event.key === 'Tab') this.#commit(true, event.shiftKey ? -1 : 1);
    else return;
    event.preventDefault();
  }

  #onBlur() {
    if (this.#isOpen && !this.#commit(false, 0)) this.close();
  }
}
