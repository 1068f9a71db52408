// The client in Node against a real server: several users write at once over connections that break.
import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { build } from 'esbuild';
import WebSocket from 'ws';
import { createClient, memoryStorage } from '@rowtide/client';
import { random } from '../client/test/random.js';
import { until } from '../client/test/scripted.js';
import { Proxy, Server } from './kit.js';

let server, proxy;
before(async () => {
  server = await Server.start();
  proxy = await Proxy.start(server);
});
after(async () => {
  proxy?.end();
  await server?.end();
});

const clientOf = (user, options = {}) => createClient({ url: proxy.url, token: () => server.token(user), WebSocket, ...options });
const live = (db) => until(db.status, ({ connection }) => connection === 'live');
const tables = (db) => Object.fromEntries(db.tables().map((name) => [name, byKey(db.table(name).all())]));
const byKey = (rows) => [...rows].sort((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1));

test('devices that write at once over a bad network end with the same rows, each mutation applied once', async () => {
  const rng = random(7);
  const hello = [];
  const devices = Array.from({ length: 3 }, () =>
    clientOf('u11', { trace: (direction, message) => direction === 'sent' && message.clientId && hello.push(message.clientId) }),
  );
  await Promise.all(devices.map(live));
  const files = devices[0].table('file').where({ ownerId: 'u11' }).all().map(({ id }) => id);
  const confirmed = [];
  const WRITES = 60;
  for (let write = 0; write < WRITES; write++) {
    const db = devices[write % devices.length];
    const id = files[rng.below(files.length)];
    confirmed.push(db.mutate((tx) => {
      tx.file.update({ id, name: `write ${write}` });
      tx.file_state.insert({ userId: 'u11', fileId: id, lastVisitAt: write });
    }).confirmed);
    if (rng.chance(0.15)) {
      proxy.cut();
      proxy.repair();
    }
    if (rng.chance(0.5)) await until(db.status, ({ connection }) => connection !== 'connecting');
  }
  await Promise.all(confirmed);
  for (const db of devices) await live(db);
  const ids = [...new Set(hello)].map((id) => `'${id}'`).join();
  assert.equal(server.sql(`SELECT sum(last_mutation) FROM rowtide_files.client WHERE client_id IN (${ids})`), String(WRITES));
  const fresh = clientOf('u11');
  await live(fresh);
  const truth = tables(fresh);
  for (const db of [...devices, fresh]) {
    await until({ get: () => tables(db), subscribe: (listener) => db.subscribe(listener) }, (now) => JSON.stringify(now) === JSON.stringify(truth), 'the same rows');
  }
  for (const { id, name } of truth.file) assert.equal(server.sql(`SELECT name FROM file WHERE id = '${id}'`), name);
  await Promise.all([...devices, fresh].map((db) => db.close()));
});

test('a client that comes back receives what has changed, and not everything', async () => {
  const received = [];
  const options = { storage: memoryStorage(), trace: (direction, message) => direction === 'received' && received.push(message) };
  const before = clientOf('u12', options);
  await live(before);
  const rows = before.table('file').all();
  await before.close();
  const { id } = rows[0];
  server.sql(`UPDATE file SET name = 'Meanwhile' WHERE id = '${id}'`);
  received.length = 0;
  const db = clientOf('u12', options);
  await db.opened;
  assert.deepEqual(byKey(db.table('file').all()), byKey(rows));
  await live(db);
  await until({ get: () => db.table('file').get(id).name, subscribe: (listener) => db.subscribe(listener) }, (name) => name === 'Meanwhile');
  const types = received.map(({ type }) => type);
  assert.equal(received[0].mode, 'resume');
  assert.ok(!types.includes('snapshot'), String(types));
  await db.close();
});

test('a client in a runtime that lacks what browsers have connects, reads and writes', async () => {
  const id = server.sql(`SELECT id FROM file WHERE "ownerId" = 'u14' AND NOT "isDeleted" ORDER BY id LIMIT 1`);
  const bare = new URL('../client/test/bare.js', import.meta.url).pathname;
  const program = await promisify(execFile)(process.execPath, [bare, proxy.url, server.token('u14'), 'file', JSON.stringify(id), 'name']);
  const { user, row } = JSON.parse(program.stdout);
  assert.deepEqual([user, row.name], ['u14', 'Wörter, 文, 🙂']);
  assert.equal(server.sql(`SELECT name FROM file WHERE id = '${id}'`), 'Wörter, 文, 🙂');
});

/** A program that believes the types which `rowtide types` writes. */
const TYPED = `
import type { Client } from '@rowtide/client';
import { type Schema, tables } from './schema.js';

export { tables };
type Db = Client<Schema, {}>;

export function add(db: Db, id: string) {
  const times = { createdAt: 1, updatedAt: 1, lastPublished: 0 };
  const file = { id, name: 'Plan', ownerId: 'u13', thumbnail: '', shared: false, sharedLinkType: 'view', publishedSlug: id };
  return db.mutate((tx) => tx.file.insert({ ...file, ...times, published: false, isEmpty: true }));
}

export function said(db: Db, id: string) {
  const { ownerName, isDeleted, createSource } = db.table('file').get(id)!;
  return [ownerName.toUpperCase(), isDeleted.valueOf(), createSource === null ? 'nowhere' : createSource.trim()];
}
`;

test('a typed program reads its own row before it is confirmed, after that, and after a reload', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'rowtide-typed-'));
  const file = (name) => join(directory, name);
  const modules = new URL('../node_modules/', import.meta.url).pathname;
  server.types(file('schema.ts'));
  writeFileSync(file('program.ts'), TYPED);
  const paths = { '@rowtide/client': [new URL('../client/src/index.d.ts', import.meta.url).pathname] };
  const compilerOptions = { strict: true, noEmit: true, target: 'es2022', module: 'esnext', moduleResolution: 'bundler', types: [], paths };
  writeFileSync(file('tsconfig.json'), JSON.stringify({ compilerOptions, files: ['program.ts'] }));
  execFileSync(process.execPath, [join(modules, 'typescript/bin/tsc'), '-p', directory], { stdio: ['ignore', 'inherit', 'inherit'] });
  await build({ entryPoints: [file('program.ts')], bundle: true, format: 'esm', outfile: file('program.mjs') });
  const { add, said, tables } = await import(file('program.mjs'));
  rmSync(directory, { recursive: true });

  const sent = [];
  const options = { tables, storage: memoryStorage(), trace: (direction, message) => direction === 'sent' && sent.push(message) };
  let db = clientOf('u13', options);
  await live(db);
  const owner = db.table('user').get('u13').name.toUpperCase();
  const { confirmed } = add(db, 'typed-1');
  assert.deepEqual(said(db, 'typed-1'), ['', false, 'nowhere']);
  await confirmed;
  // A trigger gives a file the name of its owner: what the database decides replaces what was shown.
  assert.deepEqual(said(db, 'typed-1'), [owner, false, 'nowhere']);
  const { row } = sent.find(({ type }) => type === 'mutate').ops[0];
  assert.deepEqual(['ownerName', 'isDeleted', 'createSource'].filter((column) => column in row), []);

  proxy.cut();
  add(db, 'typed-2');
  await db.close();
  db = clientOf('u13', options);
  await db.opened;
  assert.equal(db.pending().length, 1);
  assert.deepEqual(['typed-1', 'typed-2'].map((id) => said(db, id)), [[owner, false, 'nowhere'], ['', false, 'nowhere']]);
  proxy.repair();
  db.connect();
  await until(db.status, ({ pending }) => pending === 0);
  assert.deepEqual(said(db, 'typed-2'), [owner, false, 'nowhere']);
  db.mutate((tx) => ['typed-1', 'typed-2'].forEach((id) => tx.file.delete(id)));
  await until(db.status, ({ pending }) => pending === 0);
  await db.close();
});
