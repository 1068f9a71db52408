// What one person subscribes to: a form for a query of the definition and its parameters, and what has become
// of each subscription. The rows come into the tables.

import { announce, element } from './dom.js';
import { Fields } from './fields.js';
import { brief, show } from './values.js';

const STATES = { loading: 'loading …', ready: 'ready' };

export class Subscriptions {
  #actions;
  #queries;
  #shown = new Map();

  /** `actions`: `subscribe(query, params)`, `unsubscribe(subscription)`, `showTable(name)`, `keysFor(param)`. */
  constructor(queries, actions) {
    this.#actions = actions;
    this.#queries = queries;
    this.count = element('span', { className: 'count' });
    this.list = element('ul', { className: 'subscriptions' });
    this.error = element('p', { className: 'error', role: 'alert' });
    this.query = element(
      'select',
      { name: 'query', onchange: () => this.#askParams() },
      ...queries.map(({ name }) => element('option', { value: name, textContent: name })),
    );
    this.params = element('div', { className: 'params' });
    const form = element(
      'form',
      { className: 'subscribe', noValidate: true },
      element('label', {}, element('span', { className: 'label' }, 'Query'), this.query),
      this.params,
      element('button', { type: 'submit', className: 'primary', textContent: 'Subscribe' }),
    );
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.element = element('div', {}, form, this.error, this.list);
    this.#askParams();
  }

  clear() {
    this.show([], () => 0);
  }

  /** Shows these subscriptions; `rowsOf` says how many rows a table has. */
  show(subscriptions, rowsOf) {
    this.count.textContent = subscriptions.length || '';
    for (const [subscription, shown] of this.#shown) {
      if (subscriptions.includes(subscription)) continue;
      shown.element.remove();
      this.#shown.delete(subscription);
    }
    for (const subscription of subscriptions) this.#showOne(subscription, rowsOf);
  }

  get #chosen() {
    return this.#queries.find(({ name }) => name === this.query.value);
  }

  #askParams() {
    this.fields = new Fields();
    this.error.textContent = '';
    const fields = (this.#chosen?.params ?? []).map((param) =>
      this.fields.add(
        { ...param, labels: [] },
        { isNeeded: !param.isOptional, options: () => this.#actions.keysFor(param) },
      ),
    );
    this.params.replaceChildren(...fields);
  }

  #submit() {
    const params = this.fields.read(this.error);
    if (params) this.#actions.subscribe(this.#chosen, params);
  }

  #showOne(subscription, rowsOf) {
    let shown = this.#shown.get(subscription);
    if (!shown) {
      shown = this.#make(subscription);
      this.#shown.set(subscription, shown);
      this.list.prepend(shown.element);
    }
    const { status, error } = subscription.handle;
    shown.element.dataset.state = status;
    shown.state.textContent = error ? `${error.code}: ${error.message}` : STATES[status];
    for (const [name, count] of shown.counts) count.textContent = rowsOf(name);
  }

  #make(subscription) {
    const query = this.#queries.find(({ name }) => name === subscription.query);
    const params = query.params.filter(({ name }) => name in subscription.params);
    const said = params.map((param) => `${param.name} = ${brief(param, subscription.params[param.name])}`).join(', ');
    const counts = new Map();
    const tables = query.tables.map((name) => {
      const count = element('span', { className: 'count' });
      counts.set(name, count);
      const title = `Show ${name}`;
      return element('button', { type: 'button', className: 'quiet', title, onclick: () => this.#actions.showTable(name) }, `${name} `, count);
    });
    const state = element('span', { className: 'outcome' });
    const end = element('button', {
      type: 'button',
      className: 'quiet',
      textContent: 'Unsubscribe',
      onclick: () => {
        this.#actions.unsubscribe(subscription);
        announce(`Unsubscribed from ${query.name}`);
        this.query.focus();
      },
    });
    const title = params.map(({ name }) => `${name} = ${show(subscription.params[name])}`).join('\n');
    return {
      state,
      counts,
      element: element('li', {}, element('span', { className: 'did', title }, element('b', {}, query.name), ` ${said}`), state, ...tables, end),
    };
  }
}
