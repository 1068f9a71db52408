// The form for a new row. It begins with values that are likely to be taken, so that a row can be
// inserted at once; what need not be given is folded away and left out.

import { element } from './dom.js';
import { fromText, shortType, suggestRow, toText } from './values.js';

export class InsertDialog {
  #table;
  #onRow;
  #fields = [];

  /** `rows` are those that there are; `user` is one of `people`. */
  constructor(table, rows, user, people, onRow) {
    this.#table = table;
    this.#onRow = onRow;
    const suggested = suggestRow(table, rows, user, people);
    const needed = [];
    const further = [];
    for (const column of table.columns) {
      if (column.readonly) continue;
      const isNeeded = suggested[column.name] !== undefined || table.key.includes(column.name);
      (isNeeded ? needed : further).push(this.#field(column, suggested[column.name], isNeeded));
    }
    const more =
      further.length === 0
        ? null
        : element(
            'details',
            {},
            element('summary', {}, `${further.length} more, left to the database`),
            element('div', { className: 'fields' }, ...further),
          );
    const title = element('h2', { id: 'insert-title' }, 'New row of ', element('b', {}, table.name));
    this.error = element('p', { className: 'error', role: 'alert' });
    const form = element(
      'form',
      { noValidate: true },
      title,
      element('div', { className: 'fields' }, ...needed),
      more,
      this.error,
      element(
        'div',
        { className: 'actions' },
        element('button', {
          type: 'button',
          className: 'quiet',
          textContent: 'Cancel',
          onclick: () => this.dialog.close(),
        }),
        element('button', { type: 'submit', className: 'primary', textContent: 'Insert' }),
      ),
    );
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.dialog = element('dialog', { 'aria-labelledby': 'insert-title' }, form);
    this.dialog.addEventListener('close', () => this.dialog.remove());
  }

  open() {
    document.body.append(this.dialog);
    this.dialog.showModal();
  }

  #field(column, value, isNeeded) {
    const label = element(
      'span',
      { className: 'label' },
      column.name,
      element('span', { className: 'type' }, shortType(column.type)),
    );
    let input;
    if (column.kind === 'boolean' || column.kind === 'enum') {
      const labels = column.kind === 'enum' ? column.labels : ['true', 'false'];
      const options = isNeeded ? labels : ['', ...labels];
      input = element(
        'select',
        { name: column.name },
        ...options.map((text) => element('option', { value: text, textContent: text })),
      );
      input.value = value === undefined ? '' : String(value);
    } else {
      input = element('input', { name: column.name, value: toText(value), autocomplete: 'off', spellcheck: false });
    }
    this.#fields.push({ column, input, isNeeded });
    return element('label', {}, label, input);
  }

  #submit() {
    const row = {};
    for (const { column, input, isNeeded } of this.#fields) {
      if (input.value === '' && !isNeeded) continue;
      try {
        row[column.name] = fromText(column, input.value);
      } catch (error) {
        this.error.textContent = `${column.name}: ${error.message}`;
        input.setAttribute('aria-invalid', 'true');
        input.focus();
        return;
      }
      input.removeAttribute('aria-invalid');
    }
    this.dialog.close();
    this.#onRow(row);
  }
}
