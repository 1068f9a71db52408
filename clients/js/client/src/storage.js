/**
 * Where a copy is kept: rows, the queue of mutations, and where both stand. What is written together
 * is there whole or not at all, so a copy that is opened again is always one that there was.
 */

/**
 * @typedef {import('./op.js').Row} Row
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
 * Into how many pages the rows of a table are spread: IndexedDB takes its time for each record, so rows
 * are kept by the page. A change writes one page again.
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
 * Keeps copies in the browser, shared by its tabs.
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
      // A number must not be given twice, also if the power fails.
      const writing = () => database.transaction(STORES, 'readwrite', { durability: 'strict' });
      /** What each page has, by table and number. @type {Map<string, Map<string, Row>[]>} */
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
