// The client in Node against a real server: several users write at once over connections that break.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
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
