// Runtimes that are no browser: what they lack is not needed, and nothing keeps their process alive.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { bytesOf } from '../src/op.js';
import { randomId } from '../src/tab.js';
import { claims } from '../src/token.js';
import { random } from './random.js';
import { ScriptedServer, token } from './scripted.js';

const run = promisify(execFile);
const bare = new URL('bare.js', import.meta.url).pathname;

test('without TextDecoder, crypto and the rest: it connects, reads and writes', async () => {
  const server = await ScriptedServer.start();
  const said = run(process.execPath, [bare, server.url, token('ännchen 🙂'), 'note', '1', 'text']);
  const connection = await server.accept();
  const { clientId } = await connection.welcome({ user: 'ännchen 🙂', rows: [{ id: 1, text: 'a' }] });
  assert.match(clientId, /^[0-9a-f]{32}$/);
  const { ops: [{ row }] } = await connection.next('mutate');
  connection.say({ type: 'tx', cursor: '2', changes: [{ op: 'put', table: 'note', row }], ack: 1 });
  const shown = JSON.parse((await said).stdout);
  assert.deepEqual([shown.user, shown.row.text], ['ännchen 🙂', 'Wörter, 文, 🙂']);
  assert.match(shown.id, /^[0-9a-f]{32}$/);
  assert.notEqual(shown.id, clientId);
  await server.stop();
});

test('a client that is not to connect keeps no process alive, and needs no WebSocket', async () => {
  const index = new URL('../src/index.js', import.meta.url).href;
  const program = `import { createClient } from '${index}';
    const db = createClient({ url: 'ws://localhost/sync', connect: false, token: () => process.exit(1) });
    console.log(db.table('note').all().length, db.status.get().connection);`;
  const { stdout } = await run(process.execPath, ['--input-type=module', '-e', program], { timeout: 60_000 });
  assert.equal(stdout, '0 offline\n');
});

test('the claims of a token and the bytes of a JSON are those that the runtime itself finds', () => {
  const rng = random(7);
  const signs = ['a', 'é', '文', '🙂', '"', '\\', '\n', '\u0000', '%', '?', '>', '~'];
  for (let n = 0; n < 300; n++) {
    const sub = Array.from({ length: 1 + rng.below(12) }, () => signs[rng.below(signs.length)]).join('');
    assert.equal(claims(token(sub)).sub, sub);
    const json = JSON.stringify({ sub });
    assert.equal(bytesOf(json), Buffer.byteLength(json));
    const padded = Buffer.from(json).toString('base64').replace(/\+/g, '-').replace(/\//g, '_');
    assert.equal(claims(`.${padded}.`).sub, sub);
  }
  for (const wrong of ['', 'a', 'a.b.c', 'a.!!!!.c', `.${Buffer.from([0xff, 0xfe]).toString('base64url')}.`]) {
    assert.throws(() => claims(wrong), /not a JWT/);
  }
  assert.equal(new Set(Array.from({ length: 100 }, randomId)).size, 100);
});
