/**
 * Hooks for React, on `useSyncExternalStore`. Rows are never changed in place, and a result stays the same
 * object until something in it changes. So a render that React interrupts or repeats sees one state, and a
 * component renders again only when its own rows change.
 */
import { createContext, createElement, useCallback, useContext, useMemo, useSyncExternalStore } from 'react';

/** @typedef {import('@rowtide/client').Client} Client */

/** @type {import('react').Context<Client | undefined>} */
const Context = createContext(/** @type {Client | undefined} */ (undefined));
/** The context of the hook that is being called. */
let current = Context;

/** @param {{ client: Client, children?: import('react').ReactNode }} props */
export function RowtideProvider({ client, children }) {
  return createElement(Context.Provider, { value: client }, children);
}

/** @returns {Client} */
export function useClient() {
  const client = useContext(current);
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
  // Conditions are mostly written in place, so each render has a new object: equal ones are one query.
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

/**
 * @param {string} query
 * @param {Record<string, any>} [params]
 */
export function useSubscription(query, params) {
  const client = useClient();
  // Parameters are mostly written in place, so each render has a new object.
  const text = JSON.stringify(params ?? {});
  const subscribe = useCallback(
    (/** @type {() => void} */ listener) => {
      const subscription = client.subscribe(query, JSON.parse(text));
      const stop = subscription.subscribe(listener);
      return () => {
        stop();
        subscription.unsubscribe();
      };
    },
    [client, query, text],
  );
  const state = useCallback(() => client.subscription(query, JSON.parse(text)), [client, query, text]);
  return useSyncExternalStore(subscribe, state, state);
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

/** Hooks and a provider with a context of their own, for a page with more than one database. */
export function createHooks() {
  const own = createContext(/** @type {Client | undefined} */ (undefined));
  /**
   * @template {(...given: any[]) => any} H
   * @param {H} hook
   */
  const within = (hook) => /** @type {H} */ ((...given) => {
    const outer = current;
    current = own;
    // A hook asks for its client before it returns, also where it throws to wait.
    try {
      return hook(...given);
    } finally {
      current = outer;
    }
  });
  return {
    /** @param {{ client: Client, children?: import('react').ReactNode }} props */
    RowtideProvider: ({ client, children }) => createElement(own.Provider, { value: client }, children),
    useClient: within(useClient),
    useQuery: within(useQuery),
    useRow: within(useRow),
    useSubscription: within(useSubscription),
    useMutate: within(useMutate),
    useStatus: within(useStatus),
  };
}
