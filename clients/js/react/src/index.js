/**
 * Hooks for React, on `useSyncExternalStore`. Rows are never changed in place, and a result stays the same
 * object until something in it changes. So a render that React interrupts or repeats sees one state, and a
 * component renders again only when its own rows change. Each hook is a function of a client; `createHooks` gives it
 * the client of a context, so that a page with two databases has hooks for each.
 */
import { createContext, createElement, useCallback, useContext, useMemo, useSyncExternalStore } from 'react';

/** @typedef {import('@rowtide/client').Client} Client */

/**
 * @param {Client} client
 * @param {string} table
 * @param {any} [where] a predicate, or columns with their values
 * @param {readonly unknown[]} [deps] what a predicate depends on
 */
function useQueryOf(client, table, where, deps) {
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
 * @param {Client} client
 * @param {string} table
 * @param {any} key
 */
function useRowOf(client, table, key) {
  const text = JSON.stringify(key);
  const subscribe = useCallback(
    (/** @type {() => void} */ listener) => client.table(table).subscribe(listener),
    [client, table],
  );
  const row = useCallback(() => client.table(table).get(JSON.parse(text)), [client, table, text]);
  return useSyncExternalStore(subscribe, row, row);
}

/**
 * @param {Client} client
 * @param {string} query
 * @param {Record<string, any>} [params]
 */
function useSubscriptionOf(client, query, params) {
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

/** @param {Client} client */
function useMutateOf(client) {
  return useCallback((/** @type {(tx: any) => void} */ write) => client.mutate(write), [client]);
}

/**
 * @param {Client} client
 * @param {(status: import('@rowtide/client').Status) => any} [select] the part that is rendered
 */
function useStatusOf({ status }, select) {
  const selected = () => (select ? select(status.get()) : status.get());
  return useSyncExternalStore(status.subscribe, selected, selected);
}

/** Hooks, and a provider for the client that they use. */
export function createHooks() {
  /** @type {import('react').Context<Client | undefined>} */
  const Context = createContext(/** @type {Client | undefined} */ (undefined));

  /** @param {{ client: Client, children?: import('react').ReactNode }} props */
  function RowtideProvider({ client, children }) {
    return createElement(Context.Provider, { value: client }, children);
  }

  /** @returns {Client} */
  function useClient() {
    const client = useContext(Context);
    if (!client) throw new Error('there is no <RowtideProvider> around this component');
    return client;
  }

  /**
   * @template {any[]} A
   * @template R
   * @param {(client: Client, ...given: A) => R} hook
   * @returns {(...given: A) => R}
   */
  const withClient = (hook) => (...given) => hook(useClient(), ...given);

  return {
    RowtideProvider,
    useClient,
    useQuery: withClient(useQueryOf),
    useRow: withClient(useRowOf),
    useSubscription: withClient(useSubscriptionOf),
    useMutate: withClient(useMutateOf),
    useStatus: withClient(useStatusOf),
  };
}

export const { RowtideProvider, useClient, useQuery, useRow, useSubscription, useMutate, useStatus } = /* @__PURE__ */ createHooks();
