// The hooks render what is shown, and no more often than it changes: in strict mode too, and when a
// render is interrupted.
import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';
import { offline, page, text, window } from './page.js';

const { act, createElement: h, memo, StrictMode, useState, useTransition } = await import('react');
const { createHooks, RowtideProvider, useMutate, useQuery, useRow, useStatus, useSubscription } = await import('../src/index.js');

let client, root, renders, show;
beforeEach(() => {
  client = offline();
  client.tx({ id: 1, text: 'a', tag: 'x' }, { id: 2, text: 'b', tag: 'x' }, { id: 3, text: 'c', tag: 'y' });
  const { leave, ...shown } = page();
  root = shown.root;
  show = (element, wrap) => shown.show(client, element, wrap);
  renders = {};
  done = leave;
});
let done;
afterEach(() => done());

const rendered = (name) => (renders[name] = (renders[name] ?? 0) + 1);

const Row = memo(({ id }) => {
  rendered(`row ${id}`);
  return useRow('note', id)?.text ?? 'gone';
});
function List() {
  rendered('list');
  const rows = useQuery('note', { tag: 'x' });
  return rows.map(({ id }) => h(Row, { key: id, id }));
}
function Live() {
  rendered('status');
  return useStatus(({ connection }) => connection);
}

test('a step renders once the components that show what it changes, and no others', async () => {
  await show([h(List, { key: 1 }), h(Live, { key: 2 })]);
  assert.equal(text(), 'ablive');
  assert.deepEqual(renders, { list: 1, 'row 1': 1, 'row 2': 1, status: 1 });
  await act(() => client.tx({ id: 3, text: 'not in the list', tag: 'y' }));
  assert.deepEqual(renders, { list: 1, 'row 1': 1, 'row 2': 1, status: 1 });
  await act(() => client.tx({ id: 1, text: 'A', tag: 'x' }));
  assert.equal(text(), 'Ablive');
  assert.deepEqual(renders, { list: 2, 'row 1': 2, 'row 2': 1, status: 1 });
  await act(() => client.tx({ id: 1, text: 'AA', tag: 'x' }, { id: 2, text: 'BB', tag: 'x' }, { id: 3, text: 'c', tag: 'x' }));
  assert.equal(text(), 'AABBclive');
  assert.deepEqual(renders, { list: 3, 'row 1': 3, 'row 2': 2, 'row 3': 1, status: 1 });
  await act(() => client.status.set({ connection: 'live', pending: 1 }));
  assert.equal(renders.status, 1);
  await act(() => client.status.set({ connection: 'offline', pending: 1 }));
  assert.deepEqual([renders.status, renders.list], [2, 3]);
});

test('in strict mode it shows the same and listens once', async () => {
  await show(h(List), (inner) => h(StrictMode, null, inner));
  assert.equal(text(), 'ab');
  const before = renders.list;
  await act(() => client.tx({ id: 2, text: 'B', tag: 'x' }));
  assert.equal(text(), 'aB');
  // Strict mode renders everything twice.
  assert.equal(renders.list, before + 2);
});

test('a predicate follows what it depends on', async () => {
  let choose;
  function Chosen() {
    const [tag, setTag] = useState('x');
    choose = setTag;
    return useQuery('note', (row) => row.tag === tag, [tag]).map((row) => row.text).join();
  }
  await show(h(Chosen));
  assert.equal(text(), 'a,b');
  await act(() => choose('y'));
  assert.equal(text(), 'c');
  await act(() => client.tx({ id: 4, text: 'd', tag: 'y' }));
  assert.equal(text(), 'c,d');
});

test('two components never show two states, also when a step comes between their renders', async () => {
  const seen = [];
  let step;
  const Part = ({ last }) => {
    const count = useQuery('note').length;
    if (!last && step) {
      const once = step;
      step = undefined;
      // As if a step came while React had given the browser a turn.
      queueMicrotask(once);
    }
    return `${count};`;
  };
  let start;
  function Parts() {
    const [shown, setShown] = useState(false);
    const [, startTransition] = useTransition();
    start = () => startTransition(() => setShown(true));
    return shown ? [h(Part, { key: 1 }), h(Part, { key: 2, last: true })] : 'nothing';
  }
  await show(h(Parts));
  step = () => client.tx({ id: 5, text: 'e', tag: 'y' });
  const observer = new window.MutationObserver(() => seen.push(text()));
  observer.observe(document.querySelector('div'), { childList: true, subtree: true, characterData: true });
  await act(() => start());
  assert.equal(text(), '4;4;');
  assert.ok(seen.every((shown) => ['nothing', '3;3;', '4;4;'].includes(shown)), String(seen));
});

test('`mutate` is the same function in every render, and without a provider the mistake is named', async () => {
  const seen = new Set();
  let again;
  function Writer() {
    again = useState(0)[1];
    seen.add(useMutate());
    return null;
  }
  await show(h(Writer));
  await act(() => again(1));
  assert.equal(seen.size, 1);
  const { error } = console;
  console.error = () => {};
  try {
    await assert.rejects(async () => act(() => root.render(h(Writer))), /RowtideProvider/);
  } finally {
    console.error = error;
  }
});

test('components that subscribe to the same share it, and render when its state changes', async () => {
  const key = '["channel",[["channel",1]]]';
  const subscribed = [];
  const { subscribe } = client;
  client.subscribe = (...asked) => {
    const handle = subscribe(...asked);
    const { unsubscribe } = handle;
    subscribed.push(1);
    handle.unsubscribe = () => (subscribed.pop(), unsubscribe.call(handle));
    return handle;
  };
  const Part = ({ name }) => {
    rendered(name);
    const { status, error } = useSubscription('channel', { channel: 1 });
    return `${status} ${error?.code ?? ''};`;
  };
  let choose;
  function Parts() {
    const [count, setCount] = useState(2);
    choose = setCount;
    return Array.from({ length: count }, (_, at) => h(Part, { key: at, name: `part ${at}` }));
  }
  await show(h(Parts), (inner) => h(StrictMode, null, inner));
  assert.equal(text(), 'loading ;loading ;');
  assert.equal(subscribed.length, 2);
  await act(() => client.subscriptions.follow([[key, { status: 'ready' }]]));
  assert.equal(text(), 'ready ;ready ;');
  const [before, state] = [{ ...renders }, client.subscription('channel', { channel: 1 })];
  await act(() => client.subscriptions.follow([[key, { status: 'ready' }]]));
  assert.deepEqual(renders, before);
  assert.equal(client.subscription('channel', { channel: 1 }), state);
  await act(() => client.subscriptions.follow([[key, { status: 'refused', error: { code: 'too_many', message: 'no' } }]]));
  assert.equal(text(), 'refused too_many;refused too_many;');
  await act(() => choose(0));
  assert.equal(subscribed.length, 0);
});

test('a page with two databases has hooks for each', async () => {
  const other = createHooks();
  const second = offline();
  second.tx({ id: 1, text: 'of the other', tag: 'x' });
  function Both() {
    const [mine, its] = [useQuery('note', { tag: 'x' }), other.useQuery('note', { tag: 'x' })];
    return [...mine, ...its].map(({ text }) => `${text};`).join('');
  }
  await show(h(other.RowtideProvider, { client: second }, h(Both)));
  assert.equal(text(), 'a;b;of the other;');
  await act(() => second.tx({ id: 1, text: 'changed', tag: 'x' }));
  assert.equal(text(), 'a;b;changed;');
  await assert.rejects(async () => show(h(Both)), /no <RowtideProvider>/);
});
