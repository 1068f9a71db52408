// What the types reject: `tsc` fails where one of these errors is missing.
import { createClient, type Acked, type Client, type Settled } from '@rowtide/client';
import { createClient as implemented } from '../../client/src/client.js';
import { queries } from '@rowtide/client/queries';
import { keyValueStorage } from '@rowtide/client/storage/key-value';
import { sqliteStorage } from '@rowtide/client/storage/sqlite';
import { subscriptions } from '@rowtide/client/subscriptions';
import { createHooks, useMutate, usePending, useQuery, useQueryStatus, useRow, useStatus, useSubscription, useSuspenseQuery, useSuspenseSubscription } from '@rowtide/react';
import { type Queries, type Schema, tables } from './schema.js';

declare module '@rowtide/react' {
  interface Register {
    schema: Schema;
    queries: Queries;
  }
}

const options = { url: 'ws://localhost/sync', token: async () => 'token', tables };
const db = createClient<Schema, Queries>({ ...options, subscriptions: subscriptions({ ttl: 60_000 }), queries: queries() });

const name: string | undefined = db.table('file').get('f1')?.name;
const sameName: string | undefined = db.table('file').get({ id: 'f1' })?.name;
const stage: 'todo' | 'done' = db.table('file_state').get({ userId: 'u1', fileId: 'f1' })!.stage;
const names: string[] = db.table('file').where({ shared: true }).all().map((file) => file.name);
db.table('file').where((file) => file.createSource === null).subscribe((changes) => changes[0]!.row?.name);
db.table('file').isPending('f1');
const newest = db.table('file').where({ shared: true }).where((file) => file.name !== '').orderBy([['name', 'desc', { nulls: 'last' }], 'id']).limit(50);
const newestNames: string[] = newest.all().map((file) => file.name);
const howMany: number = newest.count().get();
const byStage: ReadonlyMap<'todo' | 'done', number> = db.table('file_state').groupCount('stage').get();
newest.onStatus((status) => status === 'complete');
db.table('file').orderBy('name').subscribe((changes) => changes[0]!.before?.name);
// @ts-expect-error there is no such column
db.table('file').orderBy('title');
// @ts-expect-error there is no such column
db.table('file').where({ shared: true }).groupCount('title');
// @ts-expect-error a direction is needed
db.table('file').orderBy([['name', 'down']]);
// @ts-expect-error the key is text
db.table('file').keyOf(1);
const larger: number = db.table('file').get('f1')!.size * 2;
// @ts-expect-error only the database makes it: a row that was just inserted does not have it yet
const owner: string = db.table('file').get('f1')!.ownerName;
// @ts-expect-error there is no such table
db.table('files');
// @ts-expect-error both columns of the key are needed
db.table('file_state').get('u1');
// @ts-expect-error the key is text
db.table('file').get(1);
// @ts-expect-error there is no such column
db.table('file').where({ title: 'Plan' });
// @ts-expect-error the column has another type
db.table('file').where({ shared: 'yes' });
// @ts-expect-error rows are not to be changed in place
db.table('file').get('f1')!.name = 'Plan';

db.mutate((tx) => {
  tx.file.insert({ id: 'f1', name: 'Plan', shared: false });
  tx.file.insert({ id: 'f1', name: 'Plan', shared: false, size: 'Infinity' });
  tx.file.update({ id: 'f1', name: 'Plan B' });
  tx.file.delete('f1');
  tx.file.delete({ id: 'f1' });
  tx.file_state.update({ userId: 'u1', fileId: 'f1', stage: 'done' });
  tx.file_state.delete({ userId: 'u1', fileId: 'f1' });
  // @ts-expect-error there is no such table
  tx.files.delete('f1');
  // @ts-expect-error `name` is missing
  tx.file.insert({ id: 'f1', shared: false });
  // @ts-expect-error nobody may write the column
  tx.file.insert({ id: 'f1', name: 'Plan', shared: false, ownerName: 'Ann' });
  // @ts-expect-error the key is missing
  tx.file.update({ name: 'Plan B' });
  // @ts-expect-error an update may not write the column
  tx.file.update({ id: 'f1', createSource: 'web' });
  // @ts-expect-error the enum has no such label
  tx.file_state.update({ userId: 'u1', fileId: 'f1', stage: 'doing' });
  // @ts-expect-error nobody may insert
  tx.user.insert({ id: 'u1', name: 'Ann' });
  // @ts-expect-error nobody may update
  tx.user.update({ id: 'u1', name: 'Ann' });
});
const subscription = db.subscribe('channel', { channel: 1 });
const ready: Promise<void> = subscription.ready;
const why: string | undefined = subscription.error?.code;
const isThere: boolean = db.subscription('recent').status === 'ready';
db.subscribe('channel', { channel: null, since: '2026-01-01' }).subscribe(({ status }) => status === 'refused');
db.subscribe('recent', { count: 3 }).unsubscribe();
db.subscribe('mine');
// @ts-expect-error there is no such query
db.subscribe('channels');
// @ts-expect-error the parameter is needed
db.subscribe('channel');
// @ts-expect-error the parameter has another type
db.subscribe('channel', { channel: 'one' });
// @ts-expect-error the query has no such parameter
db.subscribe('recent', { counts: 3 });
const confirmed: Promise<void> = db.mutate(() => {}).confirmed;

export function Component() {
  const files = useQuery('file', { shared: true });
  const first: string | undefined = files[0]?.name;
  const user = useRow('user', 'u1')?.name;
  const { status, error } = useSubscription('channel', { channel: 1 });
  useSubscription('mine');
  // @ts-expect-error the parameter has another type
  useSubscription('channel', { channel: true });
  const pending: number = useStatus((status) => status.pending);
  useMutate()((tx) => tx.file.update({ id: 'f1', name: `${first} ${user} ${pending} ${status} ${error?.code}` }));
  const latest: readonly { name: string }[] = useQuery((client) => client.table('file').orderBy('name').limit(3), []);
  const count: number = useQuery((client) => client.table('file').where({ shared: latest.length > 1 }).count());
  const kept: readonly { name: string }[] = useQuery(newest);
  const known: string[] = useSuspenseQuery('file').map((file) => file.name);
  const isAll: boolean = useQueryStatus('file', { shared: true }) === 'complete' && useQueryStatus(newest) !== 'loading';
  const isPending: boolean = usePending('file_state', { userId: 'u1', fileId: 'f1' });
  useSuspenseSubscription('recent', { count: count + kept.length + known.length + Number(isAll) + Number(isPending) });
  // @ts-expect-error both columns of the key are needed
  usePending('file_state', 'u1');
  // @ts-expect-error there is no such column
  useQuery((client) => client.table('file').orderBy('title'));
  // @ts-expect-error there is no such table
  useQuery('files');
  // @ts-expect-error there is no such column
  useQuery('file', (file) => file.title === '');
  return null;
}

// A page with another database beside the one of `Register`.
interface Other {
  song: { row: { id: number; title: string }; insert: { title: string }; update: { title?: string }; key: 'id' };
}
const other = createHooks<Other, { album: { album: number } }>();
export function OtherComponent() {
  const title: string | undefined = other.useRow('song', 1)?.title;
  other.useQuery('song', { title: 'Blue' }).map((song) => song.id);
  other.useSubscription('album', { album: 1 });
  other.useMutate()((tx) => tx.song.update({ id: 1, title: `${title}` }));
  // @ts-expect-error that table is in the other database
  other.useQuery('file');
  // @ts-expect-error the query has no such parameter
  other.useSubscription('album', { channel: 1 });
  // @ts-expect-error the client is of another database
  return other.RowtideProvider({ client: db });
}

db.onAcked((acked: Acked) => acked.code);
createClient<Schema>({ ...options, token: ({ rejected }) => String(rejected) });
// The former names.
db.onSettled((settled: Settled) => settled.code);
createClient<Schema>({ ...options, token: ({ refused }) => String(refused) });
const former: (why: { refused: boolean }) => Promise<string> = async ({ refused }) => String(refused);
createClient<Schema>({ ...options, token: former });

// What keeps a copy where there is no IndexedDB.
const opened = { execAsync: async () => {}, runAsync: async () => {}, getAllAsync: async () => [], withTransactionAsync: async (task: () => Promise<void>) => task() };
createClient<Schema>({ ...options, storage: sqliteStorage(async () => opened) });
createClient<Schema>({ ...options, storage: keyValueStorage({ getString: () => undefined, set: () => {}, getAllKeys: () => [], remove: () => true }) });
const durable: boolean | undefined = db.status.get().durable;
const stored: Promise<void> = db.mutate(() => {}).stored;

// Without a schema every table and column is allowed. The declared client is the one that is implemented.
const untyped: Client = createClient(options);
untyped.mutate((tx) => tx.anything.insert({ of: 'any kind' }));
untyped.subscribe('any', { of: 'any kind' });
untyped.subscribe('without');
const core = implemented(options);
const declared: Omit<Client, 'table'> = core;
// What comes with `queries` is not there without.
const table: Pick<ReturnType<Client['table']>, 'get' | 'isPending' | 'keyOf' | 'all' | 'subscribe' | 'count'> = core.table('anything');

export { byStage, confirmed, declared, durable, howMany, isThere, larger, newestNames, table, name, names, owner, ready, sameName, stage, stored, why };
