// Plays the scenarios that every client must pass: see clients/vectors/README.md.
import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { test } from 'node:test';
import { textOf } from '../src/inflate.js';
import { Optimistic } from '../src/optimistic.js';

const directory = new URL('../../../vectors/', import.meta.url);

/** Sorts values by their JSON. @param {any[]} values */
const sorted = (values) => values.map((value) => [JSON.stringify(canonical(value)), value]).sort().map(([, value]) => value);

/** @param {any} value */
function canonical(value) {
  if (typeof value !== 'object' || !value) return value;
  if (Array.isArray(value)) return value.map(canonical);
  return Object.fromEntries(Object.keys(value).sort().map((name) => [name, canonical(value[name])]));
}

class Player {
  constructor() {
    this.client = new Optimistic();
    this.client.lead();
    this.made = 0;
  }

  /** @param {any} step */
  async play(step) {
    let changes = [];
    let acked = [];
    if (step.deflated) ({ changes, acked } = this.client.apply(JSON.parse(await textOf(Buffer.from(step.deflated, 'base64')))));
    else if (step.receive) ({ changes, acked } = this.client.apply(step.receive));
    else if (step.mutate) ({ changes, acked } = this.client.mutate(String(++this.made), step.mutate));
    else this.client.disconnected();
    const sends = [];
    for (let next; (next = this.client.nextToSend(100, () => true)); ) sends.push(next.id);
    return {
      changes: sorted(changes.map((change) => this.changeOf(change))),
      acked: acked.map(({ id, code }) => (code ? { id: Number(id), code } : { id: Number(id) })),
      shown: Object.fromEntries([...this.client.tables].map(([name, { rows }]) => [name, sorted([...rows.values()])])),
      pending: this.client.pending().map(({ id }) => Number(id)),
      sends,
    };
  }

  /** @param {any} change */
  changeOf({ table, row, before }) {
    if (row) return { op: 'put', table, row };
    const columns = this.client.tables.get(table).key;
    return { op: 'delete', table, row: Object.fromEntries(columns.map((column) => [column, before[column]])) };
  }
}

const files = readdirSync(directory).filter((name) => name.endsWith('.json'));
test('the scenarios are found', () => assert.ok(files.length >= 10));

for (const file of files) {
  const { about, steps } = JSON.parse(readFileSync(new URL(file, directory), 'utf8'));
  test(`${file}: ${about}`, async () => {
    const player = new Player();
    let [shown, pending] = [{}, []];
    for (const [at, step] of steps.entries()) {
      shown = step.shown ?? shown;
      pending = step.pending ?? pending;
      const { changes = [], acked = [], sends = [] } = step;
      const sortedShown = Object.fromEntries(Object.entries(shown).map(([name, rows]) => [name, sorted(rows)]));
      const expected = { changes: sorted(changes), acked, shown: sortedShown, pending, sends };
      assert.deepEqual(await player.play(step), expected, `step ${at + 1}`);
    }
  });
}
