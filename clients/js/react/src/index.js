/**
 * Hooks for React, on `useSyncExternalStore`. Rows are never changed in place, and a result stays the same
 * object until something in it changes. So a render that React interrupts or repeats sees one state, and a
 * component renders again only when its own rows change.
 */
import { createContext, createElement, useCallback, useContext, useMemo, useSyncExternalStore } from 'react';

import { GivenRows } from './given.js';

/** @typedef {import('@rowtide/client').Client} Client */

/** What a server renders, and a browser first: a client that has not begun. @type {import('@rowtide/client').Status} */
const CONNECTING = { connection: 'connecting', pending: 0, leads: false };
/** @type {import('@rowtide/client').SubscriptionState} */
const LOADING = { status: 'loading' };

/** @type {import('react').Context<Client | undefined>} */
const Context = createContext(/** @type {Client | undefined} */ (undefined));
const Given = createContext(new GivenRows(undefined));

/** @param {{ client: Client, rows?: Record<string, readonly any[]>, children?: import('react').ReactNode }} props */
export function RowtideProvider({ client, rows, children }) {
  // Rows are given once, with the page: others later would be none of the first render's.
  const given = useMemo(() => new GivenRows(client, rows), [client]);
  return createElement(Context.Provider, { value: client }, createElement(Given.Provider, { value: given }, children));
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
  // Conditions are mostly written in place, so each render has a new object: equal ones are one query.
  const same = typeof where === 'function' ? (deps ?? [where]) : [JSON.stringify(where)];
  const query = useMemo(
    () => (where === undefined ? client.table(table) : client.table(table).where(where)),
    [client, table, ...same],
  );
  const given = useContext(Given);
  const first = useMemo(() => given.of(table, where), [given, table, ...same]);
  const subscribe = useCallback((/** @type {() => void} */ listener) => both(query.subscribe(listener), given.subscribe(listener)), [query, given]);
  const rows = useCallback(() => (given.isOver(table) ? query.all() : first), [query, given, first, table]);
  return useSyncExternalStore(subscribe, rows, () => first);
}

/**
 * @param {() => void} one
 * @param {() => void} other
 */
const both = (one, other) => () => {
  one();
  other();
};

/**
 * @param {string} table
 * @param {any} key
 */
export function useRow(table, key) {
  const client = useClient();
  const text = JSON.stringify(key);
  const given = useContext(Given);
  const first = useMemo(() => (typeof key === 'object' ? given.of(table, key)[0] : undefined), [given, table, text]);
  const subscribe = useCallback(
    (/** @type {() => void} */ listener) => both(client.table(table).subscribe(listener), given.subscribe(listener)),
    [client, table, given],
  );
  const row = useCallback(() => (given.isOver(table) ? client.table(table).get(JSON.parse(text)) : first), [client, given, first, table, text]);
  return useSyncExternalStore(subscribe, row, () => first);
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
  return useSyncExternalStore(subscribe, state, () => LOADING);
}

export function useMutate() {
  const client = useClient();
  return useCallback((/** @type {(tx: any) => void} */ write) => client.mutate(write), [client]);
}

/** @param {(status: import('@rowtide/client').Status) => any} [select] the part that is rendered */
export function useStatus(select) {
  const { status } = useClient();
  const selected = (/** @type {import('@rowtide/client').Status} */ now) => (select ? select(now) : now);
  return useSyncExternalStore(status.subscribe, () => selected(status.get()), () => selected(CONNECTING));
}
