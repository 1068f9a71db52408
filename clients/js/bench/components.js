// How long a thousand components over 5,000 rows take to render first, and a change that one of them shows: with the queries of
// @rowtide/client/queries, and with the core's alone. React's production build in Chromium, and the time that its main thread computes: what
// else the machine does is not in it. `node bench/components.js`; prints a table.
import { build } from 'esbuild';
import { launch } from '../test/kit.js';

const RUNS = 3;
const ROWS = 5_000;
const COMPONENTS = 1_000;
const CHANGES = 100;

/** What the page runs. */
const program = `
import { createElement as h, memo } from 'react';
import { flushSync } from 'react-dom';
import { createRoot } from 'react-dom/client';
import { Optimistic } from './client/src/optimistic.js';
import { queries } from './client/src/queries.js';
import { Observed, Shown, TableQuery } from './client/src/query.js';
import { RowtideProvider, useQuery } from './react/src/index.js';

const row = (id, version) => ({ id: 'i' + id, parent: 'p' + (id % ${COMPONENTS}), title: 'Issue ' + id, version, createdAt: 1_700_000_000_000 + id });
const KINDS = {
  'no query': () => [],
  'where({ parent })': ({ parent }) => useQuery('issue', { parent }),
  'where({ parent }), in an order, the first 3': ({ parent }) => useQuery((db) => db.table('issue').where({ parent }).orderBy([['createdAt', 'desc']]).limit(3), [parent]),
  'count of where({ parent })': ({ parent }) => [useQuery((db) => db.table('issue').where({ parent }).count(), [parent])],
};

window.prepare = (kind, core) => {
  const optimistic = new Optimistic({ issue: { key: ['id'] } });
  optimistic.lead();
  const shown = new Shown(optimistic);
  const status = new Observed(shown.bell, { connection: 'live', pending: 0 });
  const table = core ? new TableQuery(shown, 'issue') : queries()(shown, status)('issue');
  const client = { table: () => table, status };
  const put = (row) => ({ op: 'put', table: 'issue', row });
  const tx = (...rows) => shown.changed(optimistic.apply({ type: 'tx', cursor: '1', changes: rows.map(put) }).changes);
  tx(...Array.from({ length: ${ROWS} }, (_, id) => row(id, 0)));
  let renders = 0;
  const Part = memo((props) => {
    renders++;
    return h('li', null, KINDS[kind](props).length);
  });
  const parts = Array.from({ length: ${COMPONENTS} }, (_, at) => h(Part, { key: at, parent: 'p' + at }));
  const root = createRoot(document.body.appendChild(document.createElement('ul')));
  window.first = () => flushSync(() => root.render(h(RowtideProvider, { client }, parts)));
  window.change = () => {
    renders = 0;
    for (let at = 0; at < ${CHANGES}; at++) flushSync(() => tx(row(${ROWS} - 1 - at * 7, 1)));
    return renders / ${CHANGES};
  };
};
window.kinds = Object.keys(KINDS);
`;

const { outputFiles } = await build({
  stdin: { contents: program, resolveDir: new URL('..', import.meta.url).pathname },
  bundle: true,
  minify: true,
  format: 'iife',
  define: { 'process.env.NODE_ENV': '"production"' },
  write: false,
});
const browser = await launch();
/** @param {string | undefined} kind @param {boolean} core */
async function once(kind, core) {
  const page = await browser.newPage();
  await page.setContent('<!doctype html><title>components</title><body>');
  await page.addScriptTag({ content: outputFiles[0].text });
  if (!kind) return page.evaluate(() => window.kinds);
  await page.evaluate(([kind, core]) => window.prepare(kind, core), [kind, core]);
  const devtools = await page.context().newCDPSession(page);
  await devtools.send('Performance.enable', { timeDomain: 'threadTicks' });
  const computed = async () => {
    const { metrics } = await devtools.send('Performance.getMetrics');
    return metrics.find(({ name }) => name === 'TaskDuration').value * 1000;
  };
  const started = await computed();
  await page.evaluate(() => window.first());
  const shown = await computed();
  const renders = await page.evaluate(() => window.change());
  const changed = await computed();
  await page.close();
  return { first: shown - started, change: (changed - shown) / CHANGES, renders };
}
const median = (values) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)];
const kinds = await once(undefined, false);
console.log(`| ${COMPONENTS} components over ${ROWS} rows, each with | first render | a change | renders for a change |\n| --- | --- | --- | --- |`);
for (const [kind, core] of [[kinds[1], true], ...kinds.map((kind) => [kind, false])]) {
  const results = [];
  for (let run = 0; run < RUNS; run++) results.push(await once(kind, core));
  const of = (name) => median(results.map((result) => result[name]));
  console.log(`| ${kind}${core ? ', without `queries`' : ''} | ${of('first').toFixed(0)} ms | ${of('change').toFixed(2)} ms | ${of('renders')} |`);
}
await browser.close();
