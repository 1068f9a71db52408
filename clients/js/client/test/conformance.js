// What a storage must do, checked against the storage in memory, in random runs. It needs nothing of Node, so
// that a page can run it too.

/** @param {any} copy as it was loaded; nothing says in what order */
const text = ({ meta, rows, entries }) => JSON.stringify([meta, rows.map((row) => JSON.stringify(row)).sort(), entries.map((entry) => JSON.stringify(entry)).sort()]);

const TABLES = ['note', 'a "table"', '文'];

function randomBatch(rng, written) {
  const one = (from) => from[rng.below(from.length)];
  const rows = new Map();
  for (let n = rng.below(8); n; n--) {
    const [table, key] = [one(TABLES), JSON.stringify([one(['', 'é🙂', '\u0000', "'", '$[0]', 'null']), rng.below(4)])];
    const row = rng.chance(0.7) ? { id: key, text: one(['', "it's", '"', '\n\u0000', '🙂']), deep: [{ n: rng.below(9) }], none: null } : undefined;
    rows.set(`${table} ${key}`, [table, key, row]);
  }
  const entries = Array.from({ length: rng.below(3) }, () => {
    const id = `${rng.below(12)}`;
    return { id, ops: [{ op: 'insert', table: one(TABLES), row: { id: rng.below(9), text: one(["'", '🙂']) } }], number: written, state: one(['pending', 'held', 'refused']) };
  });
  const kept = new Map(entries.map((entry) => [entry.id, entry]));
  const gone = Array.from({ length: rng.below(3) }, () => `${rng.below(12)}`).filter((id) => !kept.has(id));
  return { rows: [...rows.values()], entries: [...kept.values()], gone, meta: rng.chance(0.6) ? { cursor: `${written}`, refusals: [] } : undefined };
}

/**
 * @param {any} storage that is empty
 * @param {any} model the storage in memory
 * @param {any} rng
 * @param {number} steps
 */
export async function conforms(storage, model, rng, steps) {
  const names = ['rowtide ws://a', 'rowtide ws://a ann', 'rowtide ws://a "ann"'];
  const stores = new Map();
  const open = async (name) => {
    const opened = { is: await storage.open(name), must: await model.open(name) };
    stores.set(name, opened);
    // A store is read before it is written.
    return text(await opened.is.load()) === text(await opened.must.load());
  };
  for (const name of names) if (!(await open(name))) throw new Error('a new store is not empty');
  for (let step = 0; step < steps; step++) {
    const name = names[rng.below(names.length)];
    const { is, must } = stores.get(name);
    if (rng.chance(0.1)) {
      await is.clear();
      await must.clear();
      is.close();
      await open(name);
    } else if (rng.chance(0.2)) {
      is.close();
      await open(name);
    } else {
      const batch = randomBatch(rng, step);
      const before = JSON.stringify(batch);
      await Promise.all([is.write(batch), must.write(JSON.parse(before))]);
      if (JSON.stringify(batch) !== before) throw new Error('a write has changed what it was given');
    }
    for (const [name, { is, must }] of stores) {
      const [found, expected] = [text(await is.load()), text(await must.load())];
      if (found !== expected) throw new Error(`step ${step}, ${name}:\n${found}\nand not\n${expected}`);
    }
  }
  for (const { is } of stores.values()) is.close();
  return 'conforms';
}
