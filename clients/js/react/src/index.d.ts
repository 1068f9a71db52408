import type { ReactNode } from 'react';
import type { Client, KeyOf, LiveValue, Query, QueryStatus, Status, SubscriptionState, Table, Untyped } from '@rowtide/client';

/**
 * Where an application names its schema, and its queries if it has some, once:
 *
 *     declare module '@rowtide/react' { interface Register { schema: Schema; queries: Queries } }
 */
export interface Register {}
type RegisteredSchema = Register extends { schema: infer S } ? S : Untyped;
type RegisteredQueries = Register extends { queries: infer Q } ? Q : Record<string, Record<string, any>>;
type RegisteredClient = Client<RegisteredSchema, RegisteredQueries>;
type Names = keyof RegisteredSchema & string;
type RowOf<T extends Names> = Table<RegisteredSchema, T> extends Query<infer R> ? R : never;

/**
 * Provides `client` to the components inside. `rows`, by table, are what a server renders, and the browser first: a table shows them
 * until the client has rows of it or is up to date. `useRow` finds a given row if its key is an object with the columns.
 */
export declare function RowtideProvider(props: {
  client: Client<any, any>;
  rows?: { readonly [table: string]: readonly object[] };
  children?: ReactNode;
}): ReactNode;

/** The client of the provider. */
export declare function useClient(): RegisteredClient;

/** What a hook that reads a query takes, and what it returns. */
interface ReadQuery {
  /**
   * The rows of a table, or those for which `where` holds. Renders again only when one of them changes.
   * A predicate that is written in place needs `deps`, as for `useMemo`; an object does not.
   */
  <T extends Names>(
    table: T,
    where?: ((row: RowOf<T>) => boolean) | Partial<RowOf<T>>,
    deps?: readonly unknown[],
  ): readonly RowOf<T>[];
  /** The rows of a query: one that is kept outside, or one that `make` makes anew when `deps` change (without them in each render). */
  <Row>(query: Rows<Row>): readonly Row[];
  <Row>(make: (client: RegisteredClient) => Rows<Row>, deps?: readonly unknown[]): readonly Row[];
  /** A value that a query counts. */
  <T>(value: LiveValue<T>): T;
  <T>(make: (client: RegisteredClient) => LiveValue<T>, deps?: readonly unknown[]): T;
}
type Rows<Row> = Pick<Query<Row>, 'all' | 'subscribe'>;

export declare const useQuery: ReadQuery;

/**
 * As `useQuery`, but the component is suspended while there is nothing that could be shown, neither stored rows nor those of the server.
 * Needs a client with `queries`.
 */
export declare const useSuspenseQuery: ReadQuery;

/** Whether what a query shows is all that there is. Takes what `useQuery` takes. Needs a client with `queries`. */
export declare function useQueryStatus<T extends Names>(
  table: T,
  where?: ((row: RowOf<T>) => boolean) | Partial<RowOf<T>>,
  deps?: readonly unknown[],
): QueryStatus;
export declare function useQueryStatus(query: Query<any> | LiveValue<any>): QueryStatus;
export declare function useQueryStatus(make: (client: RegisteredClient) => Query<any> | LiveValue<any>, deps?: readonly unknown[]): QueryStatus;

/** One row. Renders again only when it changes. */
export declare function useRow<T extends Names>(table: T, key: KeyOf<RegisteredSchema, T>): RowOf<T> | undefined;

/** Whether a mutation that is not acknowledged yet has an operation on the row. */
export declare function usePending<T extends Names>(table: T, key: KeyOf<RegisteredSchema, T>): boolean;

/**
 * Subscribes to a query as long as the component is there: its rows come into the tables, where `useQuery` finds them. Components
 * that ask for the same share one subscription, which outlives them for a while.
 */
export declare function useSubscription<N extends keyof RegisteredQueries & string>(
  query: N,
  ...params: {} extends RegisteredQueries[N] ? [params?: RegisteredQueries[N]] : [params: RegisteredQueries[N]]
): SubscriptionState;

/** As `useSubscription`, but the component is suspended until the rows are there or refused. */
export declare function useSuspenseSubscription<N extends keyof RegisteredQueries & string>(
  query: N,
  ...params: {} extends RegisteredQueries[N] ? [params?: RegisteredQueries[N]] : [params: RegisteredQueries[N]]
): SubscriptionState;

/** `mutate` of the client: the same function in every render. */
export declare function useMutate(): RegisteredClient['mutate'];

/** The status, or the part of it that `select` returns: the component renders again only when that changes. */
export declare function useStatus(): Status;
export declare function useStatus<T>(select: (status: Status) => T): T;
