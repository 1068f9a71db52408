// A component over the test kit, as docs/client.md tells: no server, no timers, and nothing that React warns of.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { JSDOM } from 'jsdom';
import { serial, testServer } from '@rowtide/client/testing';

const { window } = new JSDOM('<!doctype html><div></div>');
Object.assign(globalThis, { window, document: window.document, IS_REACT_ACT_ENVIRONMENT: true });
Object.defineProperty(globalThis, 'navigator', { value: window.navigator, configurable: true });
const { act, createElement: h } = await import('react');
const { createRoot } = await import('react-dom/client');
const { RowtideProvider, useMutate, useQuery, useStatus } = await import('../src/index.js');

function Notes() {
  const notes = useQuery('note');
  const mutate = useMutate();
  const { connection, pending } = useStatus();
  const add = () => mutate((tx) => void tx.note.insert({ author: 'ann', text: `n${notes.length}` }));
  return h('button', { onClick: add }, `${connection}, ${pending} pending: ${notes.map(({ text }) => text).join()}`);
}

test('a component shows what the server in memory has, is refused, and comes back', async (t) => {
  const warned = t.mock.method(console, 'error');
  const own = ({ author }, { userId }) => author === userId;
  const server = testServer({
    tables: { note: { key: ['id'], visible: own, insert: (row, auth, db) => own(row, auth) && (db.rows('note').length < 2 || 'too_many'), defaults: { id: serial } } },
  });
  const db = server.client('ann');
  const root = createRoot(document.querySelector('div'));
  /** Does something, and waits for what comes of it. */
  const does = (action) => act(async () => {
    action();
    await server.settled();
  });
  await does(() => root.render(h(RowtideProvider, { client: db }, h(Notes))));
  const button = document.querySelector('button');
  const click = () => button.dispatchEvent(new window.MouseEvent('click', { bubbles: true }));
  assert.equal(button.textContent, 'live, 0 pending: ');
  await does(() => server.write((tx) => tx.note.insert({ author: 'ann', text: 'n' })));
  assert.equal(button.textContent, 'live, 0 pending: n');
  await does(() => server.offline());
  await does(click);
  await does(click);
  assert.equal(button.textContent, 'offline, 2 pending: n,n1,n2');
  await does(() => server.online());
  assert.equal(button.textContent, 'live, 0 pending: n,n1');
  await act(() => root.unmount());
  await server.close();
  assert.deepEqual(warned.mock.calls.map(({ arguments: said }) => String(said[0])), []);
});
