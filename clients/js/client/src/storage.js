/**
 * Storages for copies. A copy has rows, the queue of mutations, and `meta`: the cursor and the numbers of
 * the queue. A write is atomic, so what is read later is always one state that the copy was in.
 */

/**
 * @typedef {import('./op.js').Row} Row
 * @typedef {import('./optimistic.js').QueueEntry} QueueEntry
 * @typedef {import('./optimistic.js').StoredCopy} StoredCopy
 * @typedef {{ rows: [string, string, Row | undefined][], entries: QueueEntry[], gone: string[],
 *   meta?: Record<string, any> }} Batch rows and mutations to store or to delete; `meta` replaces the former
 *   one
 * @typedef {{ load: () => Promise<StoredCopy>, write: (batch: Batch) => Promise<void>,
 *   clear: () => Promise<void>, close: () => void }} Store
 * @typedef {{ shared: boolean, open: (name: string) => Promise<Store> }} Storage `shared`: all tabs
 *   see the same stores, and elect one tab that writes
 */

/**
 * Stores copies in memory, as long as the storage itself lives.
 * @returns {Storage}
 */
export function memoryStorage() {
  /** @type {Map<string, { meta: any, rows: Map<string, [string, string, Row]>, entries: Map<string, QueueEntry> }>} */
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
 * How many pages the rows of a table are spread over. IndexedDB is slow with many records, so a record
 * holds a page of rows, and a change of a row writes its page again.
 */
const PAGES = 1024;

/** @param {string} key */
function pageOf(key) {
  let hash = 0;
  for (let at = 0; at < key.length; at++) hash = (Math.imul(hash, 31) + key.charCodeAt(at)) | 0;
  return (hash >>> 0) % PAGES;
}

const STORES = ['meta', 'rows', 'entries'];

/**
 * Stores copies in the browser's IndexedDB, shared by its tabs.
 * @returns {Storage}
 */
export function indexedDBStorage() {
  return {
    shared: true,
    async open(name) {
      const request = indexedDB.open(name, 1);
      request.onupgradeneeded = () => STORES.forEach((store) => request.result.createObjectStore(store));
      const database = await answer(request);
      database.onversionchange = () => database.close();
      const stores = (/** @type {IDBTransaction} */ transaction) => STORES.map((store) => transaction.objectStore(store));
      // No number may be used twice, even after a power failure.
      const writing = () => database.transaction(STORES, 'readwrite', { durability: 'strict' });
      /** The rows of each page, by table and number. @type {Map<string, Map<string, Row>[]>} */
      const pages = new Map();
      const page = (/** @type {string} */ table, /** @type {number} */ number) => {
        let of = pages.get(table);
        if (!of) pages.set(table, (of = []));
        return (of[number] ??= new Map());
      };
      return {
        async load() {
          const [meta, rows, entries] = stores(database.transaction(STORES));
          const [found, keys, texts, queue] = await Promise.all([
            answer(meta.get('')),
            answer(rows.getAllKeys()),
            answer(rows.getAll()),
            answer(entries.getAll()),
          ]);
          pages.clear();
          /** @type {[string, string, Row][]} */
          const all = [];
          for (const [at, id] of keys.entries()) {
            const [table, number] = /** @type {[string, number]} */ (id);
            const kept = page(table, number);
            for (const [key, row] of JSON.parse(texts[at])) {
              kept.set(key, row);
              all.push([table, key, row]);
            }
          }
          return { meta: found ?? {}, rows: all, entries: queue };
        },
        async write(batch) {
          const transaction = writing();
          const [meta, rows, entries] = stores(transaction);
          /** @type {Map<Map<string, Row>, [string, number]>} */
          const changed = new Map();
          for (const [table, key, row] of batch.rows) {
            const number = pageOf(key);
            const kept = page(table, number);
            changed.set(kept, [table, number]);
            if (row) kept.set(key, row);
            else kept.delete(key);
          }
          for (const [kept, id] of changed) {
            if (kept.size) rows.put(JSON.stringify([...kept]), id);
            else rows.delete(id);
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
