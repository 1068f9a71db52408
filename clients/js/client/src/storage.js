/**
 * Where a copy is kept: rows, the queue of mutations, and where both stand. What is written together
 * is there whole or not at all, so a copy that is opened again is always one that there was.
 */

/**
 * @typedef {import('./optimistic.js').Row} Row
 * @typedef {import('./optimistic.js').Entry} Entry
 * @typedef {import('./optimistic.js').Stored} Stored
 * @typedef {{ rows: [string, string, Row | undefined][], entries: Entry[], gone: string[],
 *   meta?: Record<string, any> }} Batch rows and mutations to keep, or to forget; `meta` takes the place of
 *   the one before
 * @typedef {{ load: () => Promise<Stored>, write: (batch: Batch) => Promise<void>,
 *   clear: () => Promise<void>, close: () => void }} Store
 * @typedef {{ shared: boolean, open: (name: string) => Promise<Store> }} Storage `shared`: by all tabs,
 *   which then elect one that writes
 */

/**
 * Keeps copies as long as the process lives.
 * @returns {Storage}
 */
export function memoryStorage() {
  /** @type {Map<string, { meta: any, rows: Map<string, [string, string, Row]>, entries: Map<string, Entry> }>} */
  const stores = new Map();
  return {
    shared: false,
    async open(name) {
      const kept = stores.get(name) ?? { meta: {}, rows: new Map(), entries: new Map() };
      stores.set(name, kept);
      return {
        async load() {
          return { meta: kept.meta, rows: [...kept.rows.values()], entries: [...kept.entries.values()] };
        },
        async write({ rows, entries, gone, meta }) {
          for (const [table, key, row] of rows) {
            if (row) kept.rows.set(`${table}\n${key}`, [table, key, row]);
            else kept.rows.delete(`${table}\n${key}`);
          }
          for (const entry of entries) kept.entries.set(entry.id, { ...entry });
          for (const id of gone) kept.entries.delete(id);
          if (meta) kept.meta = meta;
        },
        async clear() {
          stores.delete(name);
        },
        close() {},
      };
    },
  };
}

/**
 * @template T
 * @param {IDBRequest<T>} request
 * @returns {Promise<T>}
 */
function answer(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/**
 * @param {IDBTransaction} transaction
 * @returns {Promise<void>}
 */
function done(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = transaction.onerror = () => reject(transaction.error);
  });
}

/**
 * Keeps copies in the browser, shared by its tabs.
 * @returns {Storage}
 */
export function indexedDBStorage() {
  return {
    shared: true,
    async open(name) {
      const request = indexedDB.open(name, 1);
      request.onupgradeneeded = () => {
        for (const store of ['meta', 'rows', 'entries']) request.result.createObjectStore(store);
      };
      const database = await answer(request);
      database.onversionchange = () => database.close();
      const stores = (/** @type {IDBTransaction} */ transaction) =>
        ['meta', 'rows', 'entries'].map((store) => transaction.objectStore(store));
      // A number must not be given twice, also if the power fails.
      const writing = () =>
        database.transaction(['meta', 'rows', 'entries'], 'readwrite', { durability: 'strict' });
      return {
        async load() {
          const [meta, rows, entries] = stores(database.transaction(['meta', 'rows', 'entries']));
          const [found, keys, values, queue] = await Promise.all([
            answer(meta.get('')),
            answer(rows.getAllKeys()),
            answer(rows.getAll()),
            answer(entries.getAll()),
          ]);
          const keyed = /** @type {[string, string, Row][]} */ (
            keys.map((key, at) => [.../** @type {string[]} */ (key), JSON.parse(values[at])])
          );
          return { meta: found ?? {}, rows: keyed, entries: queue };
        },
        async write(batch) {
          const transaction = writing();
          const [meta, rows, entries] = stores(transaction);
          for (const [table, key, row] of batch.rows) {
            if (row) rows.put(JSON.stringify(row), [table, key]);
            else rows.delete([table, key]);
          }
          for (const entry of batch.entries) entries.put(entry, entry.id);
          for (const id of batch.gone) entries.delete(id);
          if (batch.meta) meta.put(batch.meta, '');
          await done(transaction);
        },
        async clear() {
          const transaction = writing();
          for (const store of stores(transaction)) store.clear();
          await done(transaction);
        },
        close: () => database.close(),
      };
    },
  };
}
