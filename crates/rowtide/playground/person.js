// One of the two people: who is signed in, how the connection stands, their tables as grids, what they
// have changed and what came of it. Whoever signs in begins with nothing of the one before.

import { announce, element } from './dom.js';
import { Grid } from './grid.js';
import { InsertDialog } from './insert.js';
import { Changes, Messages } from './logs.js';
import { Session } from './session.js';

const SOMEONE_ELSE = ' else';
const NOBODY = ' nobody';

const CONNECTIONS = {
  connecting: 'Connecting …',
  live: 'Live',
  offline: 'Offline',
  stopped: 'Stopped',
};

export class Person {
  #info;
  #side;
  #session = null;
  #grid = null;
  #table;
  #hasChosen = false;
  #tabs = new Map();

  /** `side` is how this person is told from the other: Left or Right. */
  constructor(info, side, user) {
    this.#info = info;
    this.#side = side;
    this.#table = info.tables[0];
    this.changes = new Changes();
    this.messages = new Messages();
    this.#build();
    this.#signIn(user);
  }

  #build() {
    const id = this.#side.toLowerCase();
    this.user = this.#userField(id);
    this.claims = this.#info.claims.map((name) =>
      element(
        'label',
        { className: 'claim' },
        `${name} `,
        element('input', { name, placeholder: 'claim', size: 8, onchange: () => this.#signIn(this.userId) }),
      ),
    );
    this.status = element('span', { className: 'status' });
    this.offline = element('button', {
      type: 'button',
      className: 'quiet wire',
      onclick: () => this.#toggleConnection(),
    });
    this.tabs = element('div', { className: 'tabs', role: 'tablist', 'aria-label': 'Tables' });
    for (const table of this.#info.tables) this.#addTab(table, id);
    this.tabs.addEventListener('keydown', (event) => moveInTabs(event, this.tabs));
    this.insert = element('button', {
      type: 'button',
      className: 'insert',
      textContent: 'Insert row',
      onclick: () => this.#openInsert(),
    });
    this.place = element('div', { className: 'place', role: 'tabpanel', id: `${id}-table` });
    this.notice = element('div', { className: 'notice', hidden: true });
    this.element = element(
      'section',
      { className: 'person', 'aria-label': this.#side },
      element(
        'div',
        { className: 'bar' },
        element('label', { className: 'who', for: `${id}-user` }, 'Signed in as'),
        this.user,
        ...this.claims,
        this.status,
        this.offline,
      ),
      element('div', { className: 'bar tables' }, this.tabs, this.insert),
      this.place,
      this.notice,
      this.#drawer(id),
    );
  }

  #userField(id) {
    const options = this.#info.users.map((user) => element('option', { value: user, textContent: user }));
    if (this.#info.anonymous) options.push(element('option', { value: NOBODY, textContent: 'Nobody, without a token' }));
    options.push(element('option', { value: SOMEONE_ELSE, textContent: 'Someone else …' }));
    const list = element('select', { id: `${id}-user` }, ...options);
    const field = element('input', {
      hidden: true,
      size: 12,
      autocomplete: 'off',
      spellcheck: false,
      'aria-label': 'The id of a user',
      placeholder: 'user id',
    });
    list.addEventListener('change', () => {
      field.hidden = list.value !== SOMEONE_ELSE;
      if (field.hidden) this.#signIn(list.value);
      else field.focus();
    });
    field.addEventListener('change', () => this.#signIn(field.value.trim()));
    this.list = list;
    this.field = field;
    return element('span', { className: 'user' }, list, field);
  }

  #addTab(table, id) {
    const count = element('span', { className: 'count' });
    const tab = element(
      'button',
      {
        type: 'button',
        role: 'tab',
        'aria-controls': `${id}-table`,
        onclick: () => this.#showTable(table),
      },
      `${table.name} `,
      count,
    );
    this.#tabs.set(table.name, { tab, count });
    this.tabs.append(tab);
  }

  #drawer(id) {
    const views = [
      ['Changes', this.changes],
      ['Messages', this.messages],
    ];
    const tabs = element('div', { className: 'tabs', role: 'tablist', 'aria-label': 'What happens' });
    const panels = [];
    const drawer = element('div', { className: 'drawer' });
    const choose = (chosen, isToggle) => {
      const isClosed = isToggle && drawer.dataset.view === chosen;
      drawer.dataset.view = isClosed ? '' : chosen;
      for (const [name, view] of views) view.panel.hidden = name !== drawer.dataset.view;
      for (const tab of tabs.children) {
        tab.setAttribute('aria-selected', String(tab.dataset.view === drawer.dataset.view));
        tab.tabIndex = tab.dataset.view === chosen ? 0 : -1;
      }
    };
    for (const [name, view] of views) {
      const panelId = `${id}-${name.toLowerCase()}`;
      tabs.append(
        element(
          'button',
          {
            type: 'button',
            role: 'tab',
            'data-view': name,
            'aria-controls': panelId,
            onclick: () => choose(name, true),
          },
          `${name} `,
          view.count,
        ),
      );
      view.panel = element(
        'div',
        { className: 'panel', role: 'tabpanel', id: panelId, 'aria-label': name },
        view.element,
      );
      panels.push(view.panel);
    }
    tabs.addEventListener('keydown', (event) => moveInTabs(event, tabs));
    drawer.append(tabs, ...panels);
    choose('Changes', false);
    if (matchMedia('(max-width: 720px)').matches) choose('Changes', true);
    return drawer;
  }

  #signIn(user) {
    if (!user) return;
    this.userId = user;
    const isListed = user === NOBODY || this.#info.users.includes(user);
    this.list.value = isListed ? user : SOMEONE_ELSE;
    this.field.hidden = isListed;
    if (!isListed) this.field.value = user;
    this.#session?.close();
    this.changes.clear();
    this.messages.clear();
    this.notice.hidden = true;
    const session = new Session({
      user: user === NOBODY ? null : user,
      claims: this.#claims(),
      // Whatever the application asks of its own pages.
      appVersion: this.#info.minClient ?? undefined,
      onMessage: (direction, message) => this.messages.add(direction, message),
      onChange: () => this.#session === session && this.#show(),
      onAcked: (change) => this.#session === session && this.#acked(change),
    });
    this.#session = session;
    this.#showTable(this.#table);
  }

  #claims() {
    const inputs = this.claims.map((label) => label.querySelector('input')).filter((input) => input.value !== '');
    return Object.fromEntries(inputs.map((input) => [input.name, asClaim(input.value)]));
  }

  /** The table to begin with: the one with the most rows. */
  #fullest() {
    const count = (table) => this.#session.rows(table.name).length;
    return this.#info.tables.reduce((most, table) => (count(table) > count(most) ? table : most));
  }

  #showTable(table) {
    this.#hasChosen = this.#session.status.connection === 'live';
    this.#table = table;
    this.#grid = new Grid(table, `${table.name}, as ${this.userId} sees it`, {
      edit: (row, column, value) => this.#session.update(table, row, { [column]: value }),
      delete: (row) => this.#session.delete(table, row),
    });
    this.place.replaceChildren(this.#grid.element);
    for (const [name, { tab }] of this.#tabs) {
      tab.setAttribute('aria-selected', String(name === table.name));
      tab.tabIndex = name === table.name ? 0 : -1;
    }
    this.#show();
  }

  #show() {
    const session = this.#session;
    const { connection, pending, error } = session.status;
    this.status.className = `status ${connection}`;
    const waiting = pending > 0 ? ` · ${pending} pending` : '';
    // Why it is offline is of interest only if it was not asked for.
    const why = error && error.code !== 'offline' && !session.isAway ? ` · ${error.code}` : '';
    this.status.textContent = CONNECTIONS[connection] + why + waiting;
    this.status.title = error?.message ?? '';
    this.offline.textContent = session.isAway ? 'Come back' : 'Go offline';
    this.element.classList.toggle('is-offline', session.isAway);
    for (const [name, { count }] of this.#tabs) count.textContent = session.rows(name).length;
    if (connection === 'live' && !this.#hasChosen) return this.#showTable(this.#fullest());
    const rows = session.rows(this.#table.name);
    const isWaiting = rows.length === 0 && connection !== 'live';
    const empty = isWaiting ? 'Waiting for rows …' : `${this.userId} sees no rows of ${this.#table.name}.`;
    this.#grid.update(rows, session.pendingOf(this.#table), empty);
    this.changes.show(session.changes);
  }

  #acked(change) {
    if (change.state === 'rejected') {
      announce(`${this.userId}: rejected, ${change.code}: ${change.message}`);
      const close = element('button', {
        type: 'button',
        className: 'close',
        textContent: '×',
        'aria-label': 'Dismiss',
        onclick: () => {
          this.notice.hidden = true;
        },
      });
      this.notice.replaceChildren(element('strong', {}, change.code), element('span', {}, change.message), close);
      this.notice.hidden = false;
    }
    this.#show();
  }

  #toggleConnection() {
    const session = this.#session;
    if (session.isAway) session.comeBack();
    else session.goOffline();
    announce(`${this.userId} ${session.isAway ? 'went offline' : 'came back'}`);
    this.#show();
  }

  #openInsert() {
    const table = this.#table;
    const onRow = (row) => {
      this.#session.insert(table, row);
      const grid = this.#grid;
      queueMicrotask(() => grid.reveal(grid.keyOf(row)));
    };
    new InsertDialog(table, this.#session.rows(table.name), this.userId, this.#info.users, onRow).open();
  }
}

/** Text, unless it is a number, true, false or other JSON. */
function asClaim(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** Arrow keys between tabs, as is usual for them. */
function moveInTabs(event, tabs) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const all = [...tabs.children];
  const next = all[(all.indexOf(document.activeElement) + step + all.length) % all.length];
  next.focus();
  if (next.getAttribute('aria-selected') !== 'true') next.click();
  event.preventDefault();
}
