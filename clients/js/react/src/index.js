/**
 * React over the client. What a component renders comes from `useSyncExternalStore`: rows are never
 * changed in place, and a result stays the same object until something in it changes, so that a render
 * that is interrupted or made twice sees one state, and only what changed is rendered.
 */
import { createContext, createElement, useCallback, useContext, useMemo, useSyncExternalStore } from 'react';

/** @typedef {import('@rowtide/client').Client} Client */

/** @type {import('react').Context<Client | undefined>} */
const Context = createContext(/** @type {Client | undefined} */ (undefined));

/** @param {{ client: Client, children?: import('react').ReactNode }} props */
export function RowtideProvider({ client, children }) {
  return createElement(Context.Provider, { value: client }, children);
}

/** @returns {Client} */
export function useClient() {
  const client = useContext(Context);
  if (!client) throw new Error('there is no <RowtideProvider> around this component');
  return client;
}

/**
 * @param {string} table
 * @param {any} [where] a predicate, or columns with their values
 * @param {readonly unknown[]} [deps] what a predicate depends on
 */
export function useQuery(table, where, deps) {
  const client = useClient();
  // Conditions are mostly written in place: what is equal is the same query.
  const same = typeof where === 'function' ? (deps ?? [where]) : [JSON.stringify(where)];
  const query = useMemo(
    () => (where === undefined ? client.table(table) : client.table(table).where(where)),
    [client, table, ...same],
  );
  const subscribe = useCallback((/** @type {() => void} */ listener) => query.subscribe(listener), [query]);
  const rows = useCallback(() => query.all(), [query]);
  return useSyncExternalStore(subscribe, rows, rows);
}

/**
 * @param {string} table
 * @param {any} key
 */
export function useRow(table, key) {
  const client = useClient();
  const text = JSON.stringify(key);
  const subscribe = useCallback(
    (/** @type {() => void} */ listener) => client.table(table).subscribe(listener),
    [client, table],
  );
  const row = useCallback(() => client.table(table).get(JSON.parse(text)), [client, table, text]);
  return useSyncExternalStore(subscribe, row, row);
}

export function useMutate() {
  const client = useClient();
  return useCallback((/** @type {(tx: any) => void} */ write) => client.mutate(write), [client]);
}

/** @param {(status: import('@rowtide/client').Status) => any} [select] the part that is rendered */
export function useStatus(select) {
  const { status } = useClient();
  const selected = () => (select ? select(status.get()) : status.get());
  return useSyncExternalStore(status.subscribe, selected, selected);
}
