// How long it takes to apply 10,000 changes to a replica of 100,000 rows with ten subscribers, in Node and
// in Chromium, and to open that replica from IndexedDB. `node bench/bench.js`; prints a table.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { once } from 'node:events';
import { launch } from '../test/kit.js';

/** What is measured; written to be evaluated in a page as well. */
async function measure({ url, stored }) {
  const { Optimistic } = await import(`${url}optimistic.js`);
  const { Shown, TableQuery } = await import(`${url}query.js`);
  const { indexedDBStorage } = await import(`${url}storage.js`);
  const ROWS = 100_000;
  const CHANGES = 10_000;
  const row = (id, version) => ({
    id: `f${id}`, name: `File ${id}`, ownerId: `u${id % 1000}`, shared: id % 10 === 0, version, createdAt: 1_700_000_000_000 + id,
    thumbnail: `https://example.com/thumbnails/${id}.png`, isDeleted: false, createSource: null,
  });
  const results = {};
  const timed = async (name, work) => {
    const start = performance.now();
    await work();
    results[name] = performance.now() - start;
  };
  const optimistic = new Optimistic();
  const shown = new Shown(optimistic);
  const table = new TableQuery(shown, 'file');
  const apply = (message) => {
    const step = optimistic.apply(message);
    shown.changed(step.changes);
    return step;
  };
  apply({ type: 'connected', protocol: 1, userId: 'u', mode: 'snapshot', lastMutation: 0, refused: [], tables: { file: { key: ['id'] } } });
  for (let from = 0; from < ROWS; from += 1000) {
    apply({ type: 'snapshot', table: 'file', rows: Array.from({ length: 1000 }, (_, at) => row(from + at, 0)) });
  }
  let batch;
  await timed('a snapshot of 100,000 rows', () => (batch = apply({ type: 'ready', cursor: '1' }).record));
  let told = 0;
  for (let query = 0; query < 5; query++) {
    table.where({ ownerId: `u${query}` }).subscribe((changes) => (told += changes.length));
    table.where(({ shared, version }) => shared && version % 2 === query % 2).subscribe((changes) => (told += changes.length));
  }
  const tx = (from, count, version) => ({
    type: 'tx', cursor: '2', changes: Array.from({ length: count }, (_, at) => ({ op: 'put', table: 'file', row: row(((from + at) * 7) % ROWS, version) })),
  });
  const single = Array.from({ length: CHANGES }, (_, at) => tx(at, 1, 1));
  await timed('10,000 changes, each a step', () => single.forEach(apply));
  const one = tx(0, CHANGES, 2);
  await timed('10,000 changes, one step', () => apply(one));
  if (!told) throw new Error('nobody was told');
  if (stored) {
    const name = 'bench';
    let store = await indexedDBStorage().open(name);
    await timed('storing 100,000 rows', () => store.write({ ...batch, meta: { keys: { file: ['id'] }, cursor: '1' } }));
    store.close();
    store = await indexedDBStorage().open(name);
    const opened = new Optimistic();
    await timed('opening 100,000 rows', async () => void opened.restore(await store.load(), () => false));
    if (opened.tables.get('file').rows.size !== ROWS) throw new Error('rows are missing');
    await timed('storing one change', () => store.write({ rows: [['file', '["f1"]', row(1, 9)]], entries: [], gone: [], meta: {} }));
  }
  return results;
}

const source = new URL('../client/src/', import.meta.url);
const server = createServer((request, response) => {
  if (request.url === '/') return response.setHeader('content-type', 'text/html').end('<!doctype html><link rel="icon" href="data:,">');
  return response.setHeader('content-type', 'text/javascript').end(readFileSync(new URL(`.${request.url}`, source)));
});
server.listen(0, '127.0.0.1');
await once(server, 'listening');
const url = `http://127.0.0.1:${server.address().port}/`;

const RUNS = 3;
const browser = await launch();
/** The median of some runs. */
async function runs(once) {
  const all = [];
  for (let run = 0; run < RUNS; run++) all.push(await once());
  const median = (values) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)];
  return Object.fromEntries(Object.keys(all[0]).map((name) => [name, median(all.map((results) => results[name]))]));
}
const inNode = await runs(() => measure({ url: source.href, stored: false }));
const inChromium = await runs(async () => {
  const context = await browser.newContext();
  const page = await context.newPage();
  await page.goto(url);
  const results = await page.evaluate(measure, { url, stored: true });
  await context.close();
  return results;
});
await browser.close();
server.closeAllConnections();
server.close();
const ms = (value) => (value === undefined ? '' : `${value.toFixed(value < 10 ? 1 : 0)} ms`);
console.log(`| | Node ${process.version} | Chromium ${browser.version().split('.')[0]} |\n| --- | --- | --- |`);
for (const name of Object.keys(inChromium)) console.log(`| ${name} | ${ms(inNode[name])} | ${ms(inChromium[name])} |`);
