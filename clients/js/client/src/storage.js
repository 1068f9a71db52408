/**
 * Storages for copies. A copy has rows, the queue of mutations, and `meta`: the cursor and the numbers of
 * the queue. A write is atomic, so what is read later is always one state that the copy was in. A storage
 * may fail, or never answer: browsers do, with a broken profile. Nobody waits for it without end.
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
 * @typedef {{ shared: boolean, durable?: boolean, open: (name: string) => Promise<Store> }} Storage `shared`: all tabs
 *   see the same stores, and elect one tab that writes; `durable`, unless it is false: what is written outlives the page
 */

/** How many seconds a storage has to open. */
export const OPENS = 5;
/** How many seconds it has for what may be large. */
const ANSWERS = 30;

/**
 * What a storage answers, if it does so in time.
 * @template T
 * @param {Promise<T>} answer
 * @param {number} [left] the seconds after which it rejects; those in which the page itself stands still count as one
 * @returns {Promise<T>}
 */
export function inTime(answer, left = ANSWERS) {
  /** @type {ReturnType<typeof setInterval>} */
  let clock;
  const late = new Promise((_, reject) => {
    clock = setInterval(() => --left || reject(new Error('the storage does not answer')), 1000);
  });
  return Promise.race([answer, late]).finally(() => clearInterval(clock));
}

/**
 * Stores copies in memory, as long as the storage itself lives.
 * @returns {Storage}
 */
export function memoryStorage() {
  /** @type {Map<string, { meta: any, rows: Map<string, [string, string, Row]>, entries: Map<string, QueueEntry> }>} */
  const stores = new Map();
  return {
    shared: false,
    durable: false,
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
 * Stores copies in the browser's IndexedDB, shared by its tabs. What does that is loaded when it is used.
 * @returns {Storage}
 */
export function indexedDBStorage() {
  const loaded = import('./indexeddb.js');
  loaded.catch(() => {});
  return { shared: true, open: async (name) => (await loaded).open(name) };
}
