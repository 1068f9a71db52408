/**
 * Copies in the browser's IndexedDB. A module of its own, which is loaded where a copy is stored there.
 * Transactions are strict: no number of a mutation may be used twice, even after a power failure.
 */

/** @typedef {import('./op.js').Row} Row */

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

let asked = false;

/** Asks the browser, once, not to delete what is stored when it needs room: something waits to be sent. */
async function persist() {
  if (asked) return;
  asked = true;
  await navigator.storage.persist();
}

/**
 * @param {string} name of the copy
 * @returns {Promise<import('./storage.js').Store>}
 */
export async function open(name) {
  // Tabs that share a store elect one that leads: where there are no locks to be had, nothing can be shared.
  await navigator.locks.query();
  const request = indexedDB.open(name, 1);
  request.onupgradeneeded = () => STORES.forEach((store) => request.result.createObjectStore(store));
  const database = await answer(request);
  database.onversionchange = () => database.close();
  const stores = (/** @type {IDBTransaction} */ transaction) => STORES.map((store) => transaction.objectStore(store));
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
      if (batch.entries.length) persist().catch(() => {});
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
}
