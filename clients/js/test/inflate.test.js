// Deflated frames in a real browser, whose sockets give a `Blob`. The server sends what the test says.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { deflateRawSync } from 'node:zlib';
import { ScriptedServer, token } from '../client/test/scripted.js';
import { PATIENCE, launch, site } from './kit.js';

let server, pages, browser;
before(async () => {
  server = await ScriptedServer.start();
  pages = await site({ token }, { open: true });
  browser = await launch();
});
after(async () => {
  await browser?.close();
  pages?.end();
  await server?.stop();
});

test('a browser asks for deflated frames, and hears what they hold in order with what is text', async () => {
  const page = await browser.newPage();
  page.setDefaultTimeout(PATIENCE);
  page.on('pageerror', (error) => assert.fail(error));
  await page.goto(pages.url);
  await page.waitForFunction('window.loaded');
  await page.evaluate((url) => start({ url, user: 'ann' }), server.url);
  const connection = await server.accept();
  const { accept } = await connection.next('connect');
  assert.deepEqual(accept, ['deflate']);
  const deflated = (message) => connection.socket.send(deflateRawSync(JSON.stringify(message)));
  connection.say({ type: 'connected', protocol: 1, userId: 'ann', mode: 'snapshot', lastMutation: 0, refused: [], tables: { note: { key: ['id'] } } });
  const rows = Array.from({ length: 5_000 }, (_, id) => ({ id, text: `é ${id}` }));
  for (let at = 0; at < rows.length; at += 1_000) deflated({ type: 'snapshot', table: 'note', rows: rows.slice(at, at + 1_000) });
  connection.say({ type: 'ready', cursor: '1' });
  deflated({ type: 'tx', cursor: '2', changes: rows.slice(0, 500).map(({ id }) => ({ op: 'put', table: 'note', row: { id, text: 'a' } })) });
  connection.say({ type: 'tx', cursor: '3', changes: [{ op: 'put', table: 'note', row: { id: 0, text: 'b' } }] });
  await page.waitForFunction(() => db.table('note').get(0)?.text === 'b');
  const shown = await page.evaluate(() => Array.from({ length: 5_000 }, (_, id) => db.table('note').get(id)?.text));
  assert.deepEqual(shown, ['b', ...Array(499).fill('a'), ...rows.slice(500).map(({ text }) => text)]);
  await page.close();
});

test('behind a broken frame a browser comes back, and asks for text', async () => {
  const page = await browser.newPage();
  page.setDefaultTimeout(PATIENCE);
  await page.goto(pages.url);
  await page.waitForFunction('window.loaded');
  await page.evaluate((url) => start({ url, user: 'bob' }), server.url);
  let connection = await server.accept();
  await connection.next('connect');
  connection.socket.send(Buffer.from('no deflate'));
  connection = await server.accept();
  const { accept } = await connection.welcome({ user: 'bob', rows: [{ id: 1, text: 'a' }] });
  assert.equal(accept, undefined);
  await page.waitForFunction(() => db.table('note').get(1)?.text === 'a');
});
