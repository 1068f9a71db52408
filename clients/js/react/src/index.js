/**
 * Hooks for React, on `useSyncExternalStore`. Rows are never changed in place, and a result stays the same
 * object until something in it changes. So a render that React interrupts or repeats sees one state, and a
 * component renders again only when its own rows change.
 */
import { createContext, createElement, useCallback, useContext, useMemo, useSyncExternalStore } from 'react';
import { GivenRows, both } from './given.js';
import { subscribeRow } from './rows.js';
import { rowsKnown, subscriptionSettled } from './suspended.js';

/** @typedef {import('@rowtide/client').Client} Client */

/** @typedef {{ client: Client, given: GivenRows }} Provided */

const newContext = () => createContext(/** @type {Provided | undefined} */ (undefined));
const Context = newContext();
/** The context of the hook that is being called. */
let current = Context;

/** @param {typeof Context} context */
const providerOf = (context) =>
  /** @param {{ client: Client, rows?: Record<string, readonly any[]>, children?: import('react').ReactNode }} props */
  function RowtideProvider({ client, rows, children }) {
    // Rows are given once, with the page: others later would be none of the first render's.
    const value = useMemo(() => ({ client, given: new GivenRows(client, rows) }), [client]);
    return createElement(context.Provider, { value }, children);
  };

export const RowtideProvider = providerOf(Context);

/** @returns {Provided} */
function useProvided() {
  const provided = useContext(current);
  if (!provided) throw new Error('there is no <RowtideProvider> around this component');
  return provided;
}

/** @returns {Client} */
export function useClient() {
  return useProvided().client;
}

/**
 * What a server renders, and a browser first, beside the rows that are given: a client that has not begun.
 * @type {{ counts: ReadonlyMap<any, number>, subscription: import('@rowtide/client').SubscriptionState,
 *   status: import('@rowtide/client').Status }}
 */
const ON_SERVER = {
  counts: new Map(),
  subscription: { status: 'loading' },
  status: { connection: 'connecting', pending: 0, leads: false },
};

/** Conditions that are written in place are new objects in each render: equal ones have one text. @param {any} where */
const textOf = (where) => JSON.stringify(where, (_, value) => (value === undefined ? ['undefined'] : value));

/**
 * The query that a hook is about.
 * @param {any} what a table, a query, or a function that makes one
 * @param {any} where a condition, or what the function depends on
 * @param {readonly unknown[]} [deps] what a predicate depends on
 * @returns {any}
 */
function useFound(what, where, deps) {
  const client = useClient();
  let on = [what];
  if (typeof what === 'function') on = where ?? on;
  if (typeof what === 'string') on = [what, ...(typeof where === 'function' ? (deps ?? [where]) : [textOf(where)])];
  return useMemo(() => {
    if (typeof what === 'function') return what(client);
    if (typeof what !== 'string') return what;
    return where === undefined ? client.table(what) : client.table(what).where(where);
  }, [client, ...on]);
}

/**
 * The rows of a query, or the value that it counts. Rows that are given stand in for a table that the hook names, not for one
 * within a query that the component has made.
 * @param {any} query
 * @param {any} what as for `useQuery`
 * @param {any} [where]
 * @param {readonly unknown[]} [deps]
 */
function useRead(query, what, where, deps = [where]) {
  const { given } = useProvided();
  const table = typeof what === 'string' ? what : undefined;
  const same = typeof where === 'function' ? deps : [textOf(where)];
  const first = useMemo(() => given.of(table, where), [given, table, ...same]);
  const subscribe = useCallback((/** @type {() => void} */ listener) => both(query.subscribe(listener), given.subscribe(table, listener)), [query, given, table]);
  const read = useCallback(() => {
    if (!query.all) return query.get();
    return given.isOver(table) ? query.all() : first;
  }, [query, given, table, first]);
  const onServer = () => {
    if (query.all) return first;
    return typeof query.get() === 'number' ? 0 : ON_SERVER.counts;
  };
  return useSyncExternalStore(subscribe, read, onServer);
}

/**
 * @param {any} what a table, a query, or a function that makes one
 * @param {any} [where] a predicate, or columns with their values; behind a function what it depends on
 * @param {readonly unknown[]} [deps] what a predicate depends on
 */
export function useQuery(what, where, deps) {
  return useRead(useFound(what, where, deps), what, where, deps);
}

/**
 * @param {any} query
 * @returns {import('@rowtide/client').QueryStatus}
 */
function useStatusOf(query) {
  if (!query.onStatus) throw new TypeError('give `createClient` the `queries` of @rowtide/client/queries');
  const subscribe = useCallback((/** @type {() => void} */ listener) => query.onStatus(listener), [query]);
  return useSyncExternalStore(subscribe, () => query.status, () => ON_SERVER.subscription.status);
}

/**
 * @param {any} what as for `useQuery`
 * @param {any} [where]
 * @param {readonly unknown[]} [deps]
 */
export function useQueryStatus(what, where, deps) {
  return useStatusOf(useFound(what, where, deps));
}

/**
 * @param {any} what as for `useQuery`
 * @param {any} [where]
 * @param {readonly unknown[]} [deps]
 */
export function useSuspenseQuery(what, where, deps) {
  const client = useClient();
  const query = useFound(what, where, deps);
  if (useStatusOf(query) === 'loading') throw rowsKnown(client, query);
  return useRead(query, what, where, deps);
}

/**
 * A key that is written in place, as the same object in each render.
 * @param {any} key
 */
function useKey(key) {
  const text = JSON.stringify(key);
  return useMemo(() => JSON.parse(text), [text]);
}

/**
 * @param {string} table
 * @param {any} key
 */
export function useRow(table, key) {
  const { client, given } = useProvided();
  const same = useKey(key);
  const first = useMemo(() => (typeof same === 'object' ? given.of(table, same)[0] : undefined), [given, table, same]);
  const subscribe = useCallback(
    (/** @type {() => void} */ listener) => both(subscribeRow(client, table, same, listener), given.subscribe(table, listener)),
    [client, table, same, given],
  );
  const row = useCallback(() => (given.isOver(table) ? client.table(table).get(same) : first), [client, table, same, given, first]);
  return useSyncExternalStore(subscribe, row, () => first);
}

/**
 * @param {string} table
 * @param {any} key
 */
export function usePending(table, key) {
  const client = useClient();
  const same = useKey(key);
  // A mutation that is made counts in the status; one that is acknowledged may change no row.
  const subscribe = useCallback((/** @type {() => void} */ listener) => both(client.status.subscribe(listener), client.onAcked(listener)), [client]);
  return useSyncExternalStore(subscribe, () => client.table(table).isPending(same), () => false);
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
  return useSyncExternalStore(subscribe, state, () => ON_SERVER.subscription);
}

/**
 * @param {string} query
 * @param {Record<string, any>} [params]
 */
export function useSuspenseSubscription(query, params) {
  const client = useClient();
  const state = useSubscription(query, params);
  if (state.status === 'loading') throw subscriptionSettled(client, query, JSON.stringify(params ?? {}));
  return state;
}

export function useMutate() {
  const client = useClient();
  return useCallback((/** @type {(tx: any) => void} */ write) => client.mutate(write), [client]);
}

/** @param {(status: import('@rowtide/client').Status) => any} [select] the part that is rendered */
export function useStatus(select) {
  const { status } = useClient();
  const selected = (/** @type {import('@rowtide/client').Status} */ now) => (select ? select(now) : now);
  return useSyncExternalStore(status.subscribe, () => selected(status.get()), () => selected(ON_SERVER.status));
}

/** Hooks and a provider with a context of their own, for a page with more than one database. */
export function createHooks() {
  const own = newContext();
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
    RowtideProvider: providerOf(own),
    useClient: within(useClient),
    useQuery: within(useQuery),
    useQueryStatus: within(useQueryStatus),
    useSuspenseQuery: within(useSuspenseQuery),
    useRow: within(useRow),
    usePending: within(usePending),
    useSubscription: within(useSubscription),
    useSuspenseSubscription: within(useSuspenseSubscription),
    useMutate: within(useMutate),
    useStatus: within(useStatus),
  };
}
