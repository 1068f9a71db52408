// One signed-in user: a client of its own, whose copy is kept in memory, and what was written with it,
// from pending to confirmed or rejected.

import { createClient, memoryStorage } from './client/index.js';
import { subscriptions } from './client/subscriptions.js';
import { exactSocket } from './exact.js';
import { brief, show } from './values.js';

/** How many changes are kept to be looked at; those that are pending are kept all. */
const MOST_CHANGES = 50;

export class Session {
  #db;
  #onMessage;
  #onChange;
  #onAcked;
  #isClosed = false;
  #isDue = false;
  #connection;
  isAway = false;
  /** Of queries of the definition: each with its `query`, its `params` and its `handle`. */
  subscriptions = [];
  changes = [];

  /**
   * `onMessage(direction, message)` for what passes over the connection, and notes of how it stands;
   * `onChange()` when rows, status or changes did; `onAcked(change)` when one is confirmed or rejected.
   */
  constructor({ user, claims, tables, appVersion, onMessage, onChange, onAcked }) {
    this.#onMessage = onMessage;
    this.#onChange = onChange;
    this.#onAcked = onAcked;
    this.#db = createClient({
      url: `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/sync`,
      // Nobody has no token.
      token: () => user && token(user, claims),
      user: user ?? undefined,
      appVersion,
      WebSocket: exactSocket(tables),
      // What is no longer wanted goes at once, to be seen going.
      subscriptions: subscriptions({ ttl: 0 }),
      storage: memoryStorage(),
      trace: (direction, message) => this.#isClosed || onMessage(direction, message),
    });
    this.#db.subscribe(() => this.#changed());
    this.#db.status.subscribe((status) => this.#stands(status));
  }

  rows(table) {
    return this.#db.table(table).all();
  }

  /** `connection`, the number of `pending` mutations, and an `error` if there is one. */
  get status() {
    return this.#db.status.get();
  }

  insert(table, row) {
    const given = Object.keys(row).length;
    this.#change('insert', table, row, ` · ${given} columns`, (tx) => tx[table.name].insert(row));
  }

  update(table, row, columns) {
    const detail = Object.entries(columns)
      .map(([name, value]) => ` · ${name} → ${show(value)}`)
      .join('');
    const written = { ...keyOf(table, row), ...columns };
    this.#change('update', table, written, detail, (tx) => tx[table.name].update(written));
  }

  delete(table, row) {
    const key = keyOf(table, row);
    this.#change('delete', table, key, '', (tx) => tx[table.name].delete(key), { row });
  }

  /** The deletions that can be undone, the latest of which is the last. */
  get deletions() {
    return this.changes.filter(({ row, state, isUndone }) => row && state !== 'rejected' && !isUndone);
  }

  /** Inserts what a deletion has taken away, but for what clients do not write. */
  undo(deletion) {
    const { table, row } = deletion;
    const written = table.columns.filter(({ name, readonly }) => !readonly && row[name] !== undefined);
    const again = Object.fromEntries(written.map(({ name }) => [name, row[name]]));
    deletion.isUndone = true;
    this.#change('insert', table, again, ' · undone', (tx) => tx[table.name].insert(again), { undoes: deletion });
  }

  /** Leaves the deletions as they are. */
  forgetDeletions() {
    for (const deletion of this.deletions) deletion.isUndone = true;
  }

  subscribe(query, params) {
    const handle = this.#db.subscribe(query, params);
    this.subscriptions = [...this.subscriptions, { query, params, handle }];
    handle.subscribe(() => this.#changed());
    this.#changed();
    return handle;
  }

  unsubscribe(subscription) {
    subscription.handle.unsubscribe();
    this.subscriptions = this.subscriptions.filter((each) => each !== subscription);
    this.#changed();
  }

  goOffline() {
    this.isAway = true;
    this.#db.disconnect();
  }

  comeBack() {
    this.isAway = false;
    this.#db.connect();
  }

  /** By key, which columns of which rows are not confirmed. */
  pendingOf(table) {
    const pending = new Map();
    for (const { state, verb, table: of, written } of this.changes) {
      if (state !== 'pending' || of !== table) continue;
      const text = JSON.stringify(table.key.map((column) => written[column]));
      const row = pending.get(text) ?? { isWhole: false, columns: new Set() };
      row.isWhole ||= verb === 'insert';
      for (const column of Object.keys(written)) if (!table.key.includes(column)) row.columns.add(column);
      pending.set(text, row);
    }
    return pending;
  }

  close() {
    this.#isClosed = true;
    this.#db.close();
  }

  async #change(verb, table, written, detail, write, more = {}) {
    const began = performance.now();
    const keyColumns = table.columns.filter((column) => table.key.includes(column.name));
    const key = keyColumns.map((column) => brief(column, written[column.name])).join(', ');
    const change = { state: 'pending', verb, table, key, detail, written, ...more };
    this.changes = [...this.changes, change].filter(
      (each, index, all) => each.state === 'pending' || index >= all.length - MOST_CHANGES,
    );
    try {
      await this.#db.mutate(write).confirmed;
      change.state = 'confirmed';
      change.took = Math.round(performance.now() - began);
    } catch (error) {
      change.state = 'rejected';
      change.code = error.code ?? 'error';
      change.message = error.message;
      if (change.undoes) change.undoes.isUndone = false;
    }
    if (!this.#isClosed) this.#onAcked(change);
  }

  #stands({ connection, error }) {
    if (connection !== this.#connection && !this.#isClosed) {
      const why = connection === 'offline' && error ? `: ${error.message} (${error.code})` : '';
      this.#onMessage('note', connection + why);
    }
    this.#connection = connection;
    this.#changed();
  }

  /** What changes in one go is shown in one go. */
  #changed() {
    if (this.#isDue) return;
    this.#isDue = true;
    queueMicrotask(() => {
      this.#isDue = false;
      if (!this.#isClosed) this.#onChange();
    });
  }
}

function keyOf(table, row) {
  return Object.fromEntries(table.key.map((column) => [column, row[column]]));
}

async function token(user, claims) {
  const response = await fetch('/playground/token', { method: 'POST', body: JSON.stringify({ user, claims }) });
  if (!response.ok) throw new Error(await response.text());
  return (await response.json()).token;
}
