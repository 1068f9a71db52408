/**
 * The panel as a custom element. It draws at most once for each frame, and only the sections that are open; what has
 * not changed keeps its nodes, so that nothing loses its focus or closes while messages come.
 */
import { STYLE } from './style.js';
import { Watch } from './watch.js';

/** How many rows are shown of a table. */
const MAX_ROWS = 50;
/** How long an operation is shown, in characters. */
const MAX_TEXT = 2000;

/** @param {any} value */
const shown = (value) => (typeof value === 'string' ? value : JSON.stringify(value));
/** @param {string} text */
const cut = (text) => (text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT)} … (${text.length} characters)` : text);
/** @param {number} count @param {string} what */
const counted = (count, what) => `${count} ${what}${count === 1 ? '' : 's'}`;

/**
 * A node with children.
 * @param {string} name
 * @param {Record<string, any>} properties of the element; those with a dash, and `role`, are attributes
 * @param {(Node | string)[]} children
 * @returns {any}
 */
function node(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [property, value] of Object.entries(properties)) {
    if (property.includes('-') || property === 'role') element.setAttribute(property, value);
    else /** @type {any} */ (element)[property] = value;
  }
  element.append(...children);
  return element;
}

/** @param {string} text */
const none = (text) => node('p', { className: 'none' }, text);
/** @param {string} label @param {Node} content */
const scrolling = (label, content) => node('div', { className: 'scroll', tabIndex: 0, role: 'region', 'aria-label': label }, content);

/** @param {string} [name] */
export function defineDevtools(name = 'rowtide-devtools') {
  if (typeof customElements === 'undefined' || customElements.get(name)) return;
  customElements.define(name, class extends HTMLElement {
    /** @type {Panel | undefined} */
    #panel;
    /** @type {any} */
    #client;

    get client() {
      return this.#client;
    }

    set client(client) {
      this.#client = client;
      this.#show();
    }

    connectedCallback() {
      // A client that was given before the element was defined.
      if (Object.hasOwn(this, 'client')) {
        const { client } = this;
        delete (/** @type {any} */ (this).client);
        this.client = client;
      } else this.#show();
    }

    disconnectedCallback() {
      this.#panel?.end();
      this.#panel = undefined;
    }

    #show() {
      this.#panel?.end();
      this.#panel = undefined;
      const root = this.shadowRoot ?? this.attachShadow({ mode: 'open' });
      root.replaceChildren();
      if (this.#client && this.isConnected) this.#panel = new Panel(root, this.#client);
    }
  });
}

class Panel {
  #client;
  #watch;
  #drawing = 0;
  #status = node('p', { role: 'status' });
  #toggle = node('button', { type: 'button' });
  #forget = node('button', { type: 'button', onclick: () => this.#ask() }, 'Forget the copy…');
  #question = node('p');
  #dialog;
  #sections;
  #table = node('select', { 'aria-label': 'Table', onchange: () => this.#draw() });
  #filter = node('input', { type: 'search', placeholder: 'Filter', 'aria-label': 'Filter the rows', oninput: () => this.#draw() });
  #rows = node('div');
  #messages = node('ol');
  #clear = node('button', { type: 'button', onclick: () => this.#cleared() }, 'Clear');

  /**
   * @param {ShadowRoot} root
   * @param {import('../index.js').Client<any, any>} client
   */
  constructor(root, client) {
    this.#client = client;
    this.#watch = new Watch(client, () => this.#soon());
    this.#toggle.onclick = () => (this.#isAway() ? client.connect() : client.disconnect());
    this.#sections = {
      tables: this.#section('Tables', true, node('div', { className: 'tools' }, this.#table, this.#filter), this.#rows),
      mutations: this.#section('Mutations'),
      subscriptions: this.#section('Subscriptions'),
      messages: this.#section('Messages', false, node('div', { className: 'tools' }, this.#clear), scrolling('Messages', this.#messages)),
    };
    this.#dialog = node('dialog', { 'aria-labelledby': 'question' },
      node('h2', { id: 'question' }, 'Forget the copy?'),
      this.#question,
      node('div', { className: 'tools' },
        node('button', { type: 'button', onclick: () => this.#dialog.close() }, 'Cancel'),
        node('button', { type: 'button', className: 'rejected', onclick: () => this.#forgotten() }, 'Forget')));
    const style = node('style', {}, STYLE);
    const sections = Object.values(this.#sections).map(({ section }) => section);
    root.append(style, node('section', { 'aria-label': 'Rowtide' }, node('header', {}, this.#status, this.#toggle, this.#forget), ...sections), this.#dialog);
    this.#draw();
  }

  end() {
    cancelAnimationFrame(this.#drawing);
    this.#watch.end();
  }

  /** @param {string} title @param {boolean} [open] @param {Node[]} content */
  #section(title, open = false, ...content) {
    const heading = node('summary', {}, title);
    const body = node('div', { className: 'body' }, ...content);
    const section = node('details', { open, ontoggle: () => this.#draw() }, heading, body);
    return { section, body, name: (/** @type {string} */ text) => text !== heading.textContent && heading.replaceChildren(text) };
  }

  #isAway() {
    return this.#client.status.get().connection === 'offline';
  }

  /** Draws in the next frame. */
  #soon() {
    this.#drawing ||= requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    cancelAnimationFrame(this.#drawing);
    this.#drawing = 0;
    const { tables, mutations, subscriptions, messages } = this.#sections;
    this.#drawStatus();
    this.#drawTables(tables);
    this.#drawMutations(mutations);
    this.#drawSubscriptions(subscriptions);
    this.#drawMessages(messages);
  }

  #drawStatus() {
    const { connection, user, pending, leads, error } = this.#client.status.get();
    const parts = [user === undefined ? 'nobody is signed in' : user, `${pending} pending`, ...(leads ? [] : ['another tab has the connection'])];
    const text = `${parts.join(' · ')}${error ? ` · ${error.code}: ${error.message}` : ''}`;
    if (this.#status.textContent !== `${connection} · ${text}`) {
      this.#status.replaceChildren(node('strong', { className: connection }, connection), ` · ${text}`);
    }
    const label = this.#isAway() ? 'Go online' : 'Go offline';
    if (this.#toggle.textContent !== label) this.#toggle.textContent = label;
    this.#toggle.disabled = this.#forget.disabled = connection === 'stopped';
  }

  /** @param {any} section */
  #drawTables(section) {
    const names = this.#client.tables().sort();
    section.name(`Tables (${names.length})`);
    if (!section.section.open) return;
    const labels = names.map((name) => `${name} (${this.#client.table(name).all().length})`);
    if (labels.join('\n') !== [...this.#table.options].map(({ text }) => text).join('\n')) {
      const chosen = this.#table.value;
      this.#table.replaceChildren(...names.map((value, at) => node('option', { value }, labels[at] ?? value)));
      if (names.includes(chosen)) this.#table.value = chosen;
    }
    const table = this.#table.value && this.#client.table(this.#table.value);
    if (!table) return this.#rows.replaceChildren(none('No table is known yet.'));
    const wanted = this.#filter.value.toLowerCase();
    const found = table.all().filter((/** @type {object} */ row) => !wanted || Object.values(row).some((value) => shown(value ?? null).toLowerCase().includes(wanted)));
    const rows = found.slice(0, MAX_ROWS);
    /** @type {string[]} */
    const columns = [...new Set(rows.flatMap((/** @type {object} */ row) => Object.keys(row)))];
    const told = `${found.length > rows.length ? `${rows.length} of ` : ''}${counted(found.length, 'row')}`;
    const at = this.#rows.querySelector('.scroll');
    const focused = at?.matches(':focus');
    const [top, left] = [at?.scrollTop ?? 0, at?.scrollLeft ?? 0];
    const body = rows.map((/** @type {any} */ row) => node('tr', { className: table.isPending(row) ? 'pending' : '' },
      ...columns.map((column) => node('td', {}, row[column] === undefined ? '' : cut(shown(row[column]))))));
    const head = node('tr', {}, ...columns.map((column) => node('th', { scope: 'col' }, column)));
    const grid = scrolling(`Rows of ${this.#table.value}`, node('table', {}, node('thead', {}, head), node('tbody', {}, ...body)));
    this.#rows.replaceChildren(none(told), ...(rows.length ? [grid] : []));
    [grid.scrollTop, grid.scrollLeft] = [top, left];
    if (focused) grid.focus();
    return undefined;
  }

  /** @param {any} section */
  #drawMutations(section) {
    const pending = this.#client.pending();
    const { rejections } = this.#watch;
    section.name(`Mutations (${pending.length} pending, ${rejections.length} rejected)`);
    const item = (/** @type {string} */ kind, /** @type {string} */ why, /** @type {readonly any[]} */ ops) => node('li', {},
      node('strong', { className: kind }, kind), why, node('pre', {}, cut(ops.map((op) => JSON.stringify(op)).join('\n'))));
    const items = [
      ...pending.map(({ ops }) => item('pending', '', ops)),
      ...[...rejections].reverse().map(({ code, message, ops }) => item('rejected', ` · ${code}: ${message}`, ops)),
    ];
    this.#list(section, 'Mutations', items, 'None is pending, and none was rejected.');
  }

  /** @param {any} section */
  #drawSubscriptions(section) {
    const all = [...this.#watch.subscriptions.values()];
    section.name(`Subscriptions (${all.length})`);
    const items = all.map(({ query, params, state }) => node('li', {}, node('strong', {}, query), ` ${JSON.stringify(params)} · ${state}`));
    this.#list(section, 'Subscriptions', items, 'The connection has none.');
  }

  /** @param {any} section @param {string} label @param {Node[]} items @param {string} otherwise */
  #list({ section, body }, label, items, otherwise) {
    if (!section.open) return;
    const next = items.length ? scrolling(label, node('ul', {}, ...items)) : none(otherwise);
    if (body.firstChild?.isEqualNode(next)) return;
    const focused = body.firstChild?.matches(':focus');
    body.replaceChildren(next);
    if (focused) next.focus();
  }

  /** @param {any} section */
  #drawMessages(section) {
    const { messages } = this.#watch;
    section.name(`Messages (${messages.length})`);
    this.#clear.disabled = !messages.length;
    if (!section.section.open) return;
    const first = messages[0]?.number ?? Infinity;
    const items = this.#messages.children;
    // The newest is on top.
    while (items.length && Number(items[items.length - 1].value) < first) items[items.length - 1].remove();
    const last = items.length ? Number(items[0].value) : 0;
    for (const { number, direction, type, text } of messages) {
      if (number <= last) continue;
      const arrow = direction === 'sent' ? '↑ sent' : '↓ received';
      this.#messages.prepend(node('li', { value: number }, node('details', {},
        node('summary', {}, node('span', { className: direction }, arrow), ` ${type} · ${counted(text.length, 'character')}`),
        node('pre', {}, cut(text)))));
    }
  }

  #cleared() {
    this.#watch.clear();
    this.#draw();
    this.#sections.messages.section.querySelector('summary').focus();
  }

  #ask() {
    const pending = this.#client.pending().length;
    const lost = pending ? `${counted(pending, 'pending mutation')} will be lost.` : 'No mutation is pending, so nothing is lost.';
    this.#question.textContent = `All stored rows of this user are deleted, and come anew from the server. ${lost} Other tabs stop until they are reloaded.`;
    this.#dialog.showModal();
  }

  async #forgotten() {
    this.#dialog.close();
    await this.#client.forget();
    this.#soon();
  }
}
