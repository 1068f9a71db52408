import type { ReactNode } from 'react';
import type { Client, KeyOf, LiveValue, Query, QueryStatus, Status, SubscriptionState, Table, Untyped } from '@rowtide/client';

/** Any queries with any parameters. */
type AnyQueries = Record<string, Record<string, any>>;
type Names<S> = keyof S & string;
type RowOf<S, T extends Names<S>> = Table<S, T> extends Query<infer R> ? R : never;

/** Rows by table, which a page is given with its HTML. */
type GivenRows = { readonly [table: string]: readonly object[] };

/** What a hook that reads a query takes, and what it returns. */
interface ReadQuery<S, Q> {
  /**
   * The rows of a table, or those for which `where` holds. Renders again only when one of them changes.
   * A predicate that is written in place needs `deps`, as for `useMemo`; an object does not.
   */
  <T extends Names<S>>(
    table: T,
    where?: ((row: RowOf<S, T>) => boolean) | Partial<RowOf<S, T>>,
    deps?: readonly unknown[],
  ): readonly RowOf<S, T>[];
  /** The rows of a query: one that is kept outside, or one that `make` makes anew when `deps` change (without them in each render). */
  <Row>(query: Rows<Row>): readonly Row[];
  <Row>(make: (client: Client<S, Q>) => Rows<Row>, deps?: readonly unknown[]): readonly Row[];
  /** A value that a query counts. */
  <T>(value: LiveValue<T>): T;
  <T>(make: (client: Client<S, Q>) => LiveValue<T>, deps?: readonly unknown[]): T;
}
type Rows<Row> = Pick<Query<Row>, 'all' | 'subscribe'>;

/** Hooks over the client of one `RowtideProvider`. */
export interface Hooks<S = Untyped, Q = AnyQueries> {
  /**
   * Provides `client` to the components inside. `rows`, by table, are what a server renders, and the browser first: a table shows them
   * until the client has rows of it or is up to date. `useRow` finds a given row if its key is an object with the columns.
   */
  RowtideProvider(props: { client: Client<S, Q>; rows?: GivenRows; children?: ReactNode }): ReactNode;

  /** The client of the provider. */
  useClient(): Client<S, Q>;

  useQuery: ReadQuery<S, Q>;

  /**
   * As `useQuery`, but the component is suspended while there is nothing that could be shown, neither stored rows nor those of the
   * server. Needs a client with `queries`.
   */
  useSuspenseQuery: ReadQuery<S, Q>;

  /** Whether what a query shows is all that there is. Takes what `useQuery` takes. Needs a client with `queries`. */
  useQueryStatus<T extends Names<S>>(
    table: T,
    where?: ((row: RowOf<S, T>) => boolean) | Partial<RowOf<S, T>>,
    deps?: readonly unknown[],
  ): QueryStatus;
  useQueryStatus(query: Query<any> | LiveValue<any>): QueryStatus;
  useQueryStatus(make: (client: Client<S, Q>) => Query<any> | LiveValue<any>, deps?: readonly unknown[]): QueryStatus;

  /** One row. Renders again only when it changes. */
  useRow<T extends Names<S>>(table: T, key: KeyOf<S, T>): RowOf<S, T> | undefined;

  /** Whether a mutation that is not acknowledged yet has an operation on the row. */
  usePending<T extends Names<S>>(table: T, key: KeyOf<S, T>): boolean;

  /**
   * Subscribes to a query as long as the component is there: its rows come into the tables, where `useQuery` finds them. Components
   * that ask for the same share one subscription, which outlives them for a while.
   */
  useSubscription<N extends keyof Q & string>(query: N, ...params: {} extends Q[N] ? [params?: Q[N]] : [params: Q[N]]): SubscriptionState;

  /** As `useSubscription`, but the component is suspended until the rows are there or refused. */
  useSuspenseSubscription<N extends keyof Q & string>(query: N, ...params: {} extends Q[N] ? [params?: Q[N]] : [params: Q[N]]): SubscriptionState;

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

/** Provides `client` to the components inside: see `Hooks`. */
export declare function RowtideProvider(props: { client: Client<any, any>; rows?: GivenRows; children?: ReactNode }): ReactNode;
/** The client of the provider. */
export declare const useClient: Registered['useClient'];
/** Rows, or what a query counts: see `Hooks`. */
export declare const useQuery: Registered['useQuery'];
/** As `useQuery`, with Suspense: see `Hooks`. */
export declare const useSuspenseQuery: Registered['useSuspenseQuery'];
/** Whether what a query shows is all that there is: see `Hooks`. */
export declare const useQueryStatus: Registered['useQueryStatus'];
/** One row: see `Hooks`. */
export declare const useRow: Registered['useRow'];
/** Whether a mutation that is not acknowledged yet has an operation on the row: see `Hooks`. */
export declare const usePending: Registered['usePending'];
/** The state of a subscription, which is used as long as the component is there: see `Hooks`. */
export declare const useSubscription: Registered['useSubscription'];
/** As `useSubscription`, with Suspense: see `Hooks`. */
export declare const useSuspenseSubscription: Registered['useSuspenseSubscription'];
/** `mutate` of the client: the same function in every render. */
export declare const useMutate: Registered['useMutate'];
/** The status, or a part of it: see `Hooks`. */
export declare const useStatus: Registered['useStatus'];
