// Fields of a form, one for each value of a type: a list for booleans and enums, else text. What may be left
// out is left out if it is empty; what is no value of its type is marked, and it is said why.

import { element } from './dom.js';
import { fromText, shortType, toText } from './values.js';

export class Fields {
  #fields = [];

  /** A field with its label. `options` are texts that are proposed. */
  add(column, { value, isNeeded, options }) {
    const label = element(
      'span',
      { className: 'label' },
      column.name,
      element('span', { className: 'type' }, shortType(column.type)),
    );
    const input = this.#input(column, value, isNeeded);
    this.#fields.push({ column, input, isNeeded });
    return element('label', {}, label, input, options ? proposals(input, options) : null);
  }

  /** The values by name; `null` if one is none of its type, which `error` tells. */
  read(error) {
    const values = {};
    error.textContent = '';
    for (const { column, input, isNeeded } of this.#fields) {
      if (input.value === '' && !isNeeded) continue;
      try {
        values[column.name] = fromText(column, input.value);
      } catch (problem) {
        error.textContent = `${column.name}: ${problem.message}`;
        input.setAttribute('aria-invalid', 'true');
        input.focus();
        return null;
      }
      input.removeAttribute('aria-invalid');
    }
    return values;
  }

  #input(column, value, isNeeded) {
    const isList = column.kind === 'boolean' || column.kind === 'enum';
    if (!isList) {
      return element('input', {
        name: column.name,
        value: toText(value),
        placeholder: isNeeded ? '' : 'optional',
        autocomplete: 'off',
        spellcheck: false,
      });
    }
    const labels = column.kind === 'enum' ? column.labels : ['true', 'false'];
    const options = isNeeded ? labels : ['', ...labels];
    const list = element(
      'select',
      { name: column.name },
      ...options.map((text) => element('option', { value: text, textContent: text })),
    );
    list.value = value === undefined ? (options[0] ?? '') : String(value);
    return list;
  }
}

/** Proposes what `options()` is when the field is entered. */
function proposals(input, options) {
  if (input.tagName !== 'INPUT') return null;
  const list = element('datalist', { id: `proposed-${crypto.randomUUID()}` });
  input.setAttribute('list', list.id);
  input.addEventListener('focus', () => {
    list.replaceChildren(...options().map((value) => element('option', { value })));
  });
  return list;
}
