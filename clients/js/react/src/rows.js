/**
 * Components that show one row each. A client has one listener for all of them, which finds those of a changed row by its key:
 * a step costs as much as it changes, and not as much as the page shows.
 */

/** @typedef {import('@rowtide/client').Client} Client */
/** @typedef {{ table: string, key: any, at: string | undefined, listener: () => void }} Shown `at`: the key as changes have it; nothing as long as it is not known */

/** @type {WeakMap<Client, ShownRows>} */
const shownRows = new WeakMap();

/**
 * @param {Client} client
 * @param {string} table
 * @param {any} key
 * @param {() => void} listener called when the row changes
 * @returns {() => void} ends that
 */
export function subscribeRow(client, table, key, listener) {
  let rows = shownRows.get(client);
  if (!rows) shownRows.set(client, (rows = new ShownRows(client)));
  return rows.add({ table, key, at: undefined, listener });
}

class ShownRows {
  #client;
  /** Those of each row, by table and key. @type {Map<string, Set<Shown>>} */
  #rows = new Map();
  #stop = () => {};

  /** @param {Client} client */
  constructor(client) {
    this.#client = client;
  }

  /** @param {Shown} shown */
  add(shown) {
    if (!this.#rows.size) this.#stop = this.#client.subscribe((changes) => this.#changed(changes));
    this.#place(shown);
    return () => {
      this.#displace(shown);
      if (!this.#rows.size) this.#stop();
    };
  }

  /** @param {Shown} shown */
  #place(shown) {
    shown.at = this.#client.table(shown.table).keyOf(shown.key);
    const name = nameOf(shown.table, shown.at);
    const placed = this.#rows.get(name);
    if (placed) placed.add(shown);
    else this.#rows.set(name, new Set([shown]));
  }

  /** @param {Shown} shown */
  #displace(shown) {
    const name = nameOf(shown.table, shown.at);
    const placed = this.#rows.get(name);
    placed?.delete(shown);
    if (!placed?.size) this.#rows.delete(name);
  }

  /** @param {readonly import('@rowtide/client').Change[]} changes */
  #changed(changes) {
    /** @type {Set<Shown>} */
    const found = new Set();
    for (const { table, key } of changes) {
      for (const at of [key, undefined]) for (const shown of this.#rows.get(nameOf(table, at)) ?? []) found.add(shown);
    }
    for (const shown of found) {
      // A temporary key has become another one, or the key's columns are known now.
      if (shown.at !== this.#client.table(shown.table).keyOf(shown.key)) {
        this.#displace(shown);
        this.#place(shown);
      }
      shown.listener();
    }
  }
}

/**
 * @param {string} table
 * @param {string | undefined} at
 */
const nameOf = (table, at) => JSON.stringify([table, at]);
