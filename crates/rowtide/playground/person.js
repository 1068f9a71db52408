// One of the two people: who is signed in, how the connection stands, their tables as grids, what they
// have changed and what came of it. Whoever signs in begins with nothing of the one before.

import { announce, element } from './dom.js';
import { filterOf } from './filter.js';
import { Grid } from './grid.js';
import { InsertDialog } from './insert.js';
import { Changes, Messages } from './logs.js';
import { Session } from './session.js';
import { Subscriptions } from './subscriptions.js';
import { Widths } from './widths.js';

const SOMEONE_ELSE = ' else';
const NOBODY = ' nobody';
/** How many keys are proposed for a parameter. */
const MOST_PROPOSED = 100;

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
  /** What is written into the filter, by table. */
  #filters = new Map();
  #filter;
  /** Whether other rows are shown by another filter. */
  #isFiltered = false;
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
    this.filter = element('input', {
      type: 'search',
      className: 'filter',
      autocomplete: 'off',
      spellcheck: false,
      placeholder: 'word or column=value',
      'aria-label': `Filter of ${this.#side}`,
      oninput: () => {
        this.#filterBy(this.filter.value);
        this.#show();
      },
    });
    this.shown = element('span', { className: 'shown' });
    this.place = element('div', { className: 'place', role: 'tabpanel', id: `${id}-table` });
    this.notice = element('div', { className: 'notice', hidden: true });
    this.undo = this.#undoBar();
    this.subscriptions = new Subscriptions(this.#info.queries, {
      subscribe: (query, params) => this.#subscribe(query, params),
      unsubscribe: (subscription) => this.#session.unsubscribe(subscription),
      showTable: (name) => this.#showTable(this.#info.tables.find((table) => table.name === name)),
      keysFor: (param) => this.#keysFor(param),
    });
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
      element('div', { className: 'bar tables' }, this.tabs),
      element('div', { className: 'bar tools' }, this.filter, this.shown, this.insert),
      this.place,
      this.undo,
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
    if (this.#info.queries.length > 0) views.unshift(['Subscriptions', this.subscriptions]);
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
    // Where a phone has little place, what happens is folded away.
    const isOpen = !matchMedia('(max-width: 720px)').matches;
    choose(views[0][0], false);
    if (!isOpen) choose(views[0][0], true);
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
    this.subscriptions.clear();
    this.changes.clear();
    this.messages.clear();
    this.notice.hidden = true;
    const session = new Session({
      user: user === NOBODY ? null : user,
      claims: this.#claims(),
      tables: this.#info.tables,
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
    this.#filterBy(this.#filters.get(table.name) ?? '');
    this.filter.value = this.#filters.get(table.name) ?? '';
    const widths = new Widths(`rowtide.widths.${this.#info.application}.${table.name}`, table.columns);
    this.#grid = new Grid(table, `${table.name}, as ${this.userId} sees it`, widths, {
      undo: () => this.#undoDeletion(),
      edit: (row, column, value) => this.#session.update(table, row, { [column]: value }),
      delete: (row) => this.#session.delete(table, row),
    });
    this.place.replaceChildren(this.#grid.element);
    for (const [name, { tab }] of this.#tabs) {
      tab.setAttribute('aria-selected', String(name === table.name));
      tab.tabIndex = name === table.name ? 0 : -1;
    }
    this.#show();
    intoSight(this.#tabs.get(table.name).tab, this.tabs);
  }

  #filterBy(text) {
    this.#filters.set(this.#table.name, text);
    this.#filter = filterOf(text, this.#table.columns);
    this.#isFiltered = true;
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
    const all = session.rows(this.#table.name);
    const rows = all.filter(this.#filter);
    this.shown.textContent = rows.length === all.length ? '' : `${rows.length} of ${all.length}`;
    this.#grid.update(rows, session.pendingOf(this.#table), this.#emptyText(all), !this.#isFiltered);
    this.#isFiltered = false;
    this.changes.show(session.changes);
    this.subscriptions.show(session.subscriptions, (name) => session.rows(name).length);
    this.#showUndo();
  }

  #emptyText(rows) {
    const { name, isOnDemand } = this.#table;
    if (rows.length > 0) return `No row of ${name} is found by the filter.`;
    if (this.#session.status.connection !== 'live') return 'Waiting for rows …';
    if (isOnDemand) return `Rows of ${name} come with subscriptions: see Subscriptions below.`;
    return `${this.userId} sees no rows of ${name}.`;
  }

  #undoBar() {
    this.undoText = element('span');
    const undo = element('button', {
      type: 'button',
      className: 'quiet',
      textContent: 'Undo',
      title: 'Inserts the row again: Ctrl Z in the table',
      onclick: () => this.#undoDeletion(),
    });
    const close = element('button', {
      type: 'button',
      className: 'close',
      textContent: '×',
      'aria-label': 'Leave it deleted',
      onclick: () => {
        this.#session.forgetDeletions();
        this.#show();
      },
    });
    return element('div', { className: 'undo', hidden: true }, this.undoText, undo, close);
  }

  #showUndo() {
    const { deletions } = this.#session;
    const latest = deletions.at(-1);
    this.undo.hidden = !latest;
    if (!latest) return;
    const others = deletions.length > 1 ? `, and ${deletions.length - 1} before it` : '';
    this.undoText.textContent = `Deleted ${latest.key} of ${latest.table.name}${others}.`;
  }

  #undoDeletion() {
    const deletion = this.#session.deletions.at(-1);
    if (!deletion) return announce('There is no deletion to undo');
    this.#session.undo(deletion);
    if (deletion.table !== this.#table) this.#showTable(deletion.table);
    announce(`${deletion.key} of ${deletion.table.name} is inserted again`);
    const grid = this.#grid;
    queueMicrotask(() => grid.reveal(grid.keyOf(deletion.row)));
  }

  async #subscribe(query, params) {
    const session = this.#session;
    const { ready } = session.subscribe(query.name, params);
    try {
      await ready;
      announce(`Subscribed to ${query.name}`);
      const isHere = this.#session === session && query.tables.includes(this.#table.name);
      if (this.#session === session && !isHere && query.tables.length > 0) {
        this.#showTable(this.#info.tables.find(({ name }) => name === query.tables[0]));
      }
    } catch (error) {
      announce(`${query.name} is refused, ${error.code}: ${error.message}`);
    }
  }

  /** The keys of the table that a parameter seems to be named after. */
  #keysFor(param) {
    const named = param.name.replace(/(_id|Id|ID)s?$/, '').toLowerCase();
    const table = this.#info.tables.find(({ name, key }) => key.length === 1 && name.toLowerCase() === named);
    if (!table) return [];
    const rows = this.#session.rows(table.name).slice(0, MOST_PROPOSED);
    return rows.map((row) => String(row[table.key[0]]));
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

/** Scrolls a tab into sight, and nothing but the tabs. */
function intoSight(tab, tabs) {
  const { left, right } = tab.getBoundingClientRect();
  const seen = tabs.getBoundingClientRect();
  // At both ends tabs fade.
  const fade = 24;
  if (left < seen.left + fade) tabs.scrollLeft -= seen.left + fade - left;
  else if (right > seen.right - fade) tabs.scrollLeft += right - (seen.right - fade);
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
