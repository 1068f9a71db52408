// A page that a server renders: what it renders is what the browser renders first, and then the client takes over.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { JSDOM } from 'jsdom';

const { window } = new JSDOM('<!doctype html><div></div>');
Object.assign(globalThis, { window, document: window.document, IS_REACT_ACT_ENVIRONMENT: true });
Object.defineProperty(globalThis, 'navigator', { value: window.navigator, configurable: true });
const { act, createElement: h } = await import('react');
const { hydrateRoot } = await import('react-dom/client');
const { renderToString } = await import('react-dom/server');
const { createClient } = await import('@rowtide/client');
const { subscriptions } = await import('@rowtide/client/subscriptions');
const { RowtideProvider, createHooks, useQuery, useRow, useStatus, useSubscription } = await import('../src/index.js');
const { ScriptedServer, until } = await import('../../client/test/scripted.js');

function Page() {
  const notes = useQuery('note').map(({ text }) => text);
  const some = useQuery('note', { id: 1 }).length;
  const few = useQuery('note', ({ id }) => id > 1, []).length;
  return h('p', null, `${notes.join()} ${some} ${few} ${useRow('note', { id: 2 })?.text} ${useStatus().connection} ${useSubscription('all').status}`);
}
const GIVEN = { note: [{ id: 1, text: 'a' }, { id: 2, text: 'b' }] };

for (const [what, rows, first] of [
  ['with rows that are given', GIVEN, 'a,b 1 1 b connecting loading'],
  ['without rows', undefined, ' 0 0 undefined connecting loading'],
]) {
  test(`${what}: a server renders them and asks for nothing, and the browser goes on without a mismatch`, async () => {
    const server = await ScriptedServer.start();
    const tables = { note: { key: ['id'] } };
    const page = (client) => h(RowtideProvider, { client, rows }, h(Page));
    const onServer = createClient({ url: server.url, tables, connect: false, subscriptions: subscriptions(), token: () => assert.fail('a token') });
    const html = renderToString(page(onServer));
    assert.equal(html, `<p>${first}</p>`);

    const db = server.client({ tables, subscriptions: subscriptions() });
    const container = document.createElement('div');
    container.innerHTML = html;
    const mismatches = [];
    let root;
    await act(() => (root = hydrateRoot(container, page(db), { onRecoverableError: (error) => mismatches.push(error) })));
    const connection = await server.accept();
    await act(async () => {
      await connection.welcome({ rows: [{ id: 2, text: 'B' }] });
      await until(db.status, ({ connection }) => connection === 'live');
    });
    assert.match(container.textContent, /^B 0 1 B live /);
    // What was given does not come back.
    await act(async () => {
      db.disconnect();
      const { stored } = db.mutate((tx) => tx.note.delete(2));
      stored.catch(() => {});
    });
    assert.match(container.textContent, /^ 0 0 undefined offline /);
    assert.deepEqual(mismatches, []);
    await act(() => root.unmount());
    await server.stop();
  });
}

test('hooks of a database of its own render the rows that their provider is given, beside those of another', async () => {
  const tables = { note: { key: ['id'] } };
  const [mine, its] = [0, 1].map(() => createClient({ url: 'ws://localhost/sync', tables, connect: false, token: () => assert.fail('a token') }));
  const other = createHooks();
  const Both = () => h('p', null, `${useQuery('note').length} ${other.useQuery('note').length} ${useRow('note', { id: 2 })?.text} ${other.useRow('note', { id: 2 })?.text} ${other.usePending('note', 2)}`);
  const page = h(RowtideProvider, { client: mine, rows: GIVEN }, h(other.RowtideProvider, { client: its, rows: { note: [{ id: 2, text: 'other' }] } }, h(Both)));
  assert.equal(renderToString(page), '<p>2 1 b other false</p>');
});
