// What is true of drawings, whoever draws: what one undoes is one's own, and shapes lie in the order in which they came.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { load } from './load.js';

const { after } = await load('diff');
const { Undoing } = await load('undoing');
const { above, boxOf, changes, moved, resized, shapesOf } = await load('shapes');

const rectangle = (id, more = {}) => ({
  id: `shape:${id}`, typeName: 'shape', type: 'rectangle', parentId: 'page:page', index: 'a1', x: 10, y: 20,
  rotation: 0, isLocked: false, opacity: 1, meta: {}, props: { w: 100, h: 50, text: '', color: 'ink' }, ...more,
});

/** A drawing that one changes and others change, and what one did. */
class Drawing {
  records = new Map();
  undoing = new Undoing();

  others(diff) {
    for (const [id, op] of Object.entries(diff)) {
      const record = after(this.records.get(id), op);
      if (record) this.records.set(id, record);
      else this.records.delete(id);
    }
  }

  own(diff) {
    for (const [id, op] of Object.entries(diff)) {
      this.undoing.record(id, this.records.get(id), after(this.records.get(id), op));
    }
    this.others(diff);
  }

  get seen() {
    return Object.fromEntries(this.records);
  }
}

test('steps are undone and done again in their order', () => {
  const drawing = new Drawing();
  const seen = [drawing.seen];
  const [before, far] = [rectangle('a'), moved(rectangle('a'), 30, 0)];
  for (const steps of [[[[], [before]]], [[[before], [moved(before, 5, 0)]], [[moved(before, 5, 0)], [far]]], [[[far], []]]]) {
    drawing.undoing.mark();
    for (const [from, to] of steps) drawing.own(changes(from, to));
    seen.push(drawing.seen);
  }
  for (const expected of seen.slice(0, -1).reverse()) {
    drawing.others(drawing.undoing.undo());
    assert.deepEqual(drawing.seen, expected);
  }
  assert.equal(drawing.undoing.undo(), null);
  for (const expected of seen.slice(1)) {
    drawing.others(drawing.undoing.redo());
    assert.deepEqual(drawing.seen, expected);
  }
  assert.equal(drawing.undoing.redo(), null);
});

test('what others did to a shape stays when one undoes what one did to it', () => {
  const drawing = new Drawing();
  const shape = rectangle('a');
  drawing.others(changes([], [shape]));
  drawing.own(changes([shape], [moved(shape, 30, 0)]));
  drawing.others({ 'shape:a': ['patch', { props: ['patch', { color: ['put', 'red'] }] }] });
  drawing.others(drawing.undoing.undo());
  assert.deepEqual(drawing.seen['shape:a'], rectangle('a', { props: { ...shape.props, color: 'red' } }));
  // One that is gone does not come back by what one changed in it.
  drawing.others(drawing.undoing.redo());
  drawing.others({ 'shape:a': ['remove'] });
  drawing.others(drawing.undoing.undo());
  assert.deepEqual(drawing.seen, {});
});

test('something that was begun and given up is no step', () => {
  const drawing = new Drawing();
  drawing.own(changes([], [rectangle('a')]));
  drawing.undoing.mark();
  drawing.own(changes([], [rectangle('b')]));
  drawing.own(changes([rectangle('b')], []));
  drawing.others(drawing.undoing.undo());
  assert.deepEqual(drawing.seen, {});
});

test('each shape lies above those before it, however many there are', () => {
  let index;
  for (let count = 0; count < 10_000; count += 1) {
    const next = above(index);
    assert.ok(index === undefined || next > index, `${next} is above ${index}`);
    index = next;
  }
  assert.equal(above('a9'), 'aA');
  assert.equal(above('az'), 'b00');
  // Between others there are longer ones, and above none of them.
  for (const other of ['a1V', 'Zz', 'a0l', 'x', '']) assert.ok(above(other) > other, other);
});

test('what is no shape of this board is not drawn', () => {
  const fine = rectangle('a');
  const wrong = [
    { id: 'page:page', typeName: 'page' },
    { ...fine, type: 'frame' },
    { ...fine, x: null },
    { ...fine, index: 1 },
    { ...fine, props: null },
    { ...fine, props: { ...fine.props, w: -1 } },
    { ...fine, props: { ...fine.props, color: 'url(#a)' } },
    { ...fine, type: 'draw', props: { points: ['a', 'b'], color: 'ink' } },
  ];
  assert.deepEqual(shapesOf([...wrong, fine]), [fine]);
  const [lower, upper] = [rectangle('z', { index: 'a1' }), rectangle('b', { index: 'a2' })];
  assert.deepEqual(shapesOf([upper, lower, fine]), [fine, lower, upper]);
});

test('a shape fills the box that it is given', () => {
  const base = { ...rectangle('a'), x: 0, y: 0 };
  const shapes = [
    base,
    { ...base, type: 'arrow', props: { dx: -40, dy: 30, color: 'ink' } },
    { ...base, type: 'draw', props: { points: [0, 0, 20, -10, 40, 30], color: 'ink' } },
  ];
  const to = { x: 100, y: 200, w: 80, h: 60 };
  for (const shape of shapes) assert.deepEqual(boxOf(resized(shape, boxOf(shape), to)), to, shape.type);
});
