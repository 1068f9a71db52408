/**
 * Stores copies in a store of keys and texts, as MMKV is one. Such a store writes one key at a time, and a copy must be
 * written as a whole. So a write is first put under one key, the journal; whoever finds one there does it again, which
 * changes nothing if it was done.
 */

/**
 * @typedef {import('./storage.js').Batch} Batch
 * @typedef {object} KeyValueStore what is used of MMKV
 * @property {(key: string) => string | undefined} getString
 * @property {(key: string, value: string) => void} set
 * @property {() => string[]} getAllKeys
 * @property {(key: string) => unknown} [delete]
 * @property {(key: string) => unknown} [remove] what newer versions call it
 */

/**
 * @param {KeyValueStore} store
 * @returns {import('./storage.js').Storage}
 */
export function keyValueStorage(store) {
  const remove = (/** @type {string} */ key) => (store.delete ? store.delete(key) : store.remove?.(key));
  return {
    shared: false,
    async open(name) {
      // A JSON has no end that another one begins with.
      const copy = JSON.stringify(name);
      const [journal, meta, row, entry] = ['journal', 'meta', 'row', 'entry'].map((part) => `${copy}${part}`);
      const put = (/** @type {string} */ key, /** @type {unknown} */ value) => {
        if (value) store.set(key, JSON.stringify(value));
        else remove(key);
      };
      const apply = (/** @type {Batch} */ batch) => {
        for (const [table, key, value] of batch.rows) put(`${row}${JSON.stringify([table, key])}`, value);
        for (const value of batch.entries) put(`${entry}${value.id}`, value);
        for (const id of batch.gone) remove(`${entry}${id}`);
        if (batch.meta) put(meta, batch.meta);
        remove(journal);
      };
      const read = (/** @type {string} */ key) => JSON.parse(store.getString(key) ?? 'null');
      const write = (/** @type {Batch} */ batch) => {
        put(journal, batch);
        apply(batch);
      };
      /** What follows the prefix in the keys that have it. @type {(prefix: string) => string[]} */
      const named = (prefix) => store.getAllKeys().filter((key) => key.startsWith(prefix)).map((key) => key.slice(prefix.length));
      const unfinished = read(journal);
      if (unfinished) apply(unfinished);
      return {
        async load() {
          return {
            meta: read(meta) ?? {},
            rows: named(row).map((at) => [.../** @type {[string, string]} */ (JSON.parse(at)), read(`${row}${at}`)]),
            entries: named(entry).map((id) => read(`${entry}${id}`)),
          };
        },
        async write(batch) {
          write(batch);
        },
        async clear() {
          const rows = named(row).map((at) => /** @type {[string, string, undefined]} */ ([...JSON.parse(at), undefined]));
          write({ rows, entries: [], gone: named(entry), meta: {} });
        },
        close() {},
      };
    },
  };
}
