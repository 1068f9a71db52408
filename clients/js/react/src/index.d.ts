import type { ReactNode } from 'react';
import type { Client, KeyOf, Query, Status, SubscriptionState, Table, Untyped } from '@rowtide/client';

/** Any queries with any parameters. */
type AnyQueries = Record<string, Record<string, any>>;
type Names<S> = keyof S & string;
type RowOf<S, T extends Names<S>> = Table<S, T> extends Query<infer R> ? R : never;

/** Hooks over the client of one `RowtideProvider`. */
export interface Hooks<S = Untyped, Q = AnyQueries> {
  /** Provides `client` to the components inside. */
  RowtideProvider(props: { client: Client<S, Q>; children?: ReactNode }): ReactNode;

  /** The client of the provider. */
  useClient(): Client<S, Q>;

  /**
   * The rows of a table, or those for which `where` holds. Renders again only when one of them changes.
   * A predicate that is written in place needs `deps`, as for `useMemo`; an object does not.
   */
  useQuery<T extends Names<S>>(
    table: T,
    where?: ((row: RowOf<S, T>) => boolean) | Partial<RowOf<S, T>>,
    deps?: readonly unknown[],
  ): readonly RowOf<S, T>[];

  /** One row. Renders again only when it changes. */
  useRow<T extends Names<S>>(table: T, key: KeyOf<S, T>): RowOf<S, T> | undefined;

  /**
   * Subscribes to a query as long as the component is there: its rows come into the tables, where `useQuery` finds them. Components
   * that ask for the same share one subscription, which outlives them for a while.
   */
  useSubscription<N extends keyof Q & string>(query: N, ...params: {} extends Q[N] ? [params?: Q[N]] : [params: Q[N]]): SubscriptionState;

  /** `mutate` of the client: the same function in every render. */
  useMutate(): Client<S, Q>['mutate'];

  /** The status, or the part of it that `select` returns: the component renders again only when that changes. */
  useStatus(): Status;
  useStatus<T>(select: (status: Status) => T): T;
}

/** Hooks with a provider of their own, for a page with more than one database: each has its schema and its queries. */
export declare function createHooks<S = Untyped, Q = AnyQueries>(): Hooks<S, Q>;

/**
 * Where an application with one database names its schema, and its queries if it has some, once:
 *
 *     declare module '@rowtide/react' { interface Register { schema: Schema; queries: Queries } }
 */
export interface Register {}
type Registered = Hooks<
  Register extends { schema: infer S } ? S : Untyped,
  Register extends { queries: infer Q } ? Q : AnyQueries
>;

/** Provides `client` to the components inside. */
export declare function RowtideProvider(props: { client: Client<any, any>; children?: ReactNode }): ReactNode;
/** The client of the provider. */
export declare const useClient: Registered['useClient'];
/** Rows: see `Hooks`. */
export declare const useQuery: Registered['useQuery'];
/** One row: see `Hooks`. */
export declare const useRow: Registered['useRow'];
/** The state of a subscription, which is used as long as the component is there: see `Hooks`. */
export declare const useSubscription: Registered['useSubscription'];
/** `mutate` of the client: the same function in every render. */
export declare const useMutate: Registered['useMutate'];
/** The status, or a part of it: see `Hooks`. */
export declare const useStatus: Registered['useStatus'];
