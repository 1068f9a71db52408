// What a query holds, what its listeners are called with, and which objects stay the same.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Optimistic } from '../src/optimistic.js';
import { Shown, TableQuery } from '../src/query.js';

/** A table of notes with three rows. */
function notes() {
  const optimistic = new Optimistic({ note: { key: ['id'] } });
  optimistic.lead();
  const shown = new Shown(optimistic);
  const table = new TableQuery(shown, 'note');
  const say = (message) => shown.changed(optimistic.apply(message).changes);
  const put = (row) => ({ op: 'put', table: 'note', row });
  const gone = (id) => ({ op: 'delete', table: 'note', row: { id } });
  const tx = (...changes) => say({ type: 'tx', cursor: '1', changes });
  tx(put({ id: 1, text: 'a', tag: null }), put({ id: 2, text: 'b', tag: 'x' }), put({ id: 3, text: 'c', tag: 'x' }));
  return { table, tx, put, gone, shown };
}

const ids = (rows) => rows.map((row) => row.id);

test('a row is found by the value of its key, or by an object with it', () => {
  const { table } = notes();
  assert.equal(table.get(2).text, 'b');
  assert.equal(table.get({ id: 2, text: 'of no account' }), table.get(2));
  assert.equal(table.get(9), undefined);
  assert.equal(table.get(null), undefined);
});

test('conditions are predicates or columns with their values', () => {
  const { table } = notes();
  assert.deepEqual(ids(table.where({ tag: 'x' }).all()), [2, 3]);
  assert.deepEqual(ids(table.where({ tag: 'x', text: 'c' }).all()), [3]);
  assert.deepEqual(ids(table.where({ tag: null }).all()), [1]);
  assert.deepEqual(ids(table.where((row) => row.id > 1).all()), [2, 3]);
});

test('a result is the same array until one of its rows changes, and rows keep their place', () => {
  const { table, tx, put } = notes();
  const tagged = table.where({ tag: 'x' });
  for (const listening of [false, true]) {
    if (listening) tagged.subscribe(() => {});
    const before = tagged.all();
    assert.equal(tagged.all(), before);
    if (listening) {
      tx(put({ id: 1, text: `not in it ${listening}`, tag: null }));
      assert.equal(tagged.all(), before);
    }
    tx(put({ id: 2, text: `changed ${listening}`, tag: 'x' }));
    assert.deepEqual(ids(tagged.all()), [2, 3]);
    assert.notEqual(tagged.all(), before);
    assert.equal(tagged.all()[1], before[1], 'what did not change is the same object');
  }
});

test('listeners are called once a step, with what came into the query, changed in it, and left it', () => {
  const { table, tx, put, gone } = notes();
  const calls = [];
  const stop = table.where({ tag: 'x' }).subscribe((changes) => {
    calls.push(changes.map(({ row, before }) => [before?.id, row?.id, row?.text]));
  });
  tx(put({ id: 1, text: 'a', tag: 'x' }), put({ id: 2, text: 'B', tag: 'x' }), put({ id: 3, text: 'c', tag: 'y' }));
  tx(put({ id: 3, text: 'still not in it', tag: 'y' }));
  tx(gone(2), gone(3));
  assert.deepEqual(calls, [
    [[undefined, 1, 'a'], [2, 2, 'B'], [3, undefined, undefined]],
    [[2, undefined, undefined]],
  ]);
  stop();
  tx(gone(1));
  assert.equal(calls.length, 2);
});

test('a query whose last listener has gone is still right', () => {
  const { table, tx, put, gone } = notes();
  const tagged = table.where({ tag: 'x' });
  const stop = tagged.subscribe(() => {});
  assert.deepEqual(ids(tagged.all()), [2, 3]);
  stop();
  tx(gone(2));
  assert.deepEqual(ids(tagged.all()), [3]);
  const again = tagged.subscribe(() => {});
  tx(put({ id: 4, text: 'd', tag: 'x' }));
  assert.deepEqual(ids(tagged.all()), [3, 4]);
  again();
  again();
  tx(gone(4));
  assert.deepEqual(ids(tagged.all()), [3]);
});

test('every query has the step before any listener is called, and one listener does not harm another', () => {
  const { table, tx, put } = notes();
  const tagged = table.where({ tag: 'x' });
  tagged.subscribe(() => {});
  const seen = [];
  const errors = [];
  globalThis.reportError = (error) => errors.push(error.message);
  table.subscribe(() => {
    throw new Error('a mistake of the application');
  });
  let cascade = true;
  table.subscribe(() => {
    seen.push(tagged.all().length);
    if (cascade) {
      cascade = false;
      tx(put({ id: 5, text: 'e', tag: 'x' }));
    }
  });
  table.subscribe(() => seen.push(`last ${tagged.all().length}`));
  tx(put({ id: 4, text: 'd', tag: 'x' }));
  // The calls for the second step come after all calls for the first.
  assert.deepEqual(seen, [3, 'last 4', 4, 'last 4']);
  delete globalThis.reportError;
  assert.deepEqual(errors, ['a mistake of the application', 'a mistake of the application']);
});
