// The form for a new row. It begins with values that are likely to be taken, so that a row can be
// inserted at once; what need not be given is folded away and left out.

import { element } from './dom.js';
import { Fields } from './fields.js';
import { suggestRow } from './values.js';

export class InsertDialog {
  #onRow;
  #fields = new Fields();

  /** `rows` are those that there are; `user` is one of `people`. */
  constructor(table, rows, user, people, onRow) {
    this.#onRow = onRow;
    const suggested = suggestRow(table, rows, user, people);
    const needed = [];
    const further = [];
    for (const column of table.columns) {
      if (column.readonly) continue;
      const isNeeded = suggested[column.name] !== undefined || table.key.includes(column.name);
      const field = this.#fields.add(column, { value: suggested[column.name], isNeeded });
      (isNeeded ? needed : further).push(field);
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

  #submit() {
    const row = this.#fields.read(this.error);
    if (!row) return;
    this.dialog.close();
    this.#onRow(row);
  }
}
