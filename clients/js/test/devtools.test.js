// The panel for developers in a real browser, beside a client of the test kit: every control is used, by mouse and by
// keyboard, on a phone and in the dark, and axe finds nothing. ROWTIDE_SCREENSHOT=file keeps a picture.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { after, afterEach, before, test } from 'node:test';
import { build } from 'esbuild';
import { PATIENCE, launch } from './kit.js';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

const PAGE = `
  import { testServer } from '@rowtide/client/testing';
  import { defineDevtools } from '@rowtide/client/devtools';
  window.server = testServer({
    tables: {
      project: { key: ['id'], visible: () => true },
      issue: { key: ['id'], visible: () => true, update: ({ project }) => project === 1 },
      message: { key: ['id'], sync: 'on_demand', visible: () => true },
    },
    queries: { channel: { params: { channel: 'int4' }, select: { message: (row, params) => row.channel === params.channel } } },
  });
  server.write((tx) => {
    for (let id = 1; id <= 3; id++) tx.project.insert({ id, name: 'Project ' + id });
    const status = ['open', 'doing', 'done'];
    for (let id = 1; id <= 120; id++) tx.issue.insert({ id, project: 1 + (id % 3), title: 'Issue ' + id, status: status[id % 3], labels: id % 2 ? ['bug'] : [] });
    tx.message.insert({ id: 1, channel: 7, body: 'Hello' });
  });
  window.panel = document.createElement('rowtide-devtools');
  window.db = server.client('ann');
  panel.client = window.db;
  document.body.append(panel);
  window.isUnknownBefore = panel.shadowRoot === null;
  defineDevtools();
  defineDevtools();
  server.settled().then(() => (window.loaded = true));
`;

let browser, pages, url, script;
before(async () => {
  const bundle = await build({ stdin: { contents: PAGE, resolveDir: new URL('.', import.meta.url).pathname }, bundle: true, format: 'esm', write: false });
  script = bundle.outputFiles[0].text;
  pages = createServer((request, response) => {
    const isScript = request.url === '/page.js';
    response.setHeader('content-type', isScript ? 'text/javascript' : 'text/html');
    response.end(isScript ? script : '<!doctype html><html lang="en"><meta name="viewport" content="width=device-width"><title>Page</title><body style="color-scheme: light dark"><main><h1>Page</h1></main><script type="module" src="/page.js"></script>');
  });
  await once(pages.listen(0, '127.0.0.1'), 'listening');
  url = `http://127.0.0.1:${pages.address().port}/`;
  browser = await launch();
});
after(async () => {
  await browser?.close();
  pages?.closeAllConnections();
  pages?.close();
});
afterEach(async () => {
  for (const context of browser?.contexts() ?? []) await context.close();
});

async function opened(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1000, height: 760 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  page.on('pageerror', (error) => assert.fail(error));
  await page.goto(url);
  await page.waitForFunction('window.loaded');
  return page;
}

const section = (page, name) => page.locator('details', { has: page.locator('summary', { hasText: name }) }).first();
const open = (page, name) => page.locator('summary', { hasText: name }).first().click();
const reads = (locator, text) => locator.filter({ hasText: text }).first().waitFor();
const violations = async (page) => {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => axe.run(document.body));
  return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(' ')}`);
};

test('it shows the rows of each table, filtered, and not more than fifty', async () => {
  const page = await opened();
  assert.ok(await page.evaluate(() => isUnknownBefore));
  await reads(page.getByRole('status'), 'live · ann · 0 pending');
  const tables = section(page, 'Tables (3)');
  await page.getByLabel('Table', { exact: true }).selectOption('issue');
  await reads(tables, '50 of 120 rows');
  assert.equal(await tables.locator('tbody tr').count(), 50);
  assert.deepEqual(await tables.locator('th').allTextContents(), ['id', 'project', 'title', 'status', 'labels']);
  await page.getByLabel('Filter the rows').fill('issue 12');
  await reads(tables, '2 rows');
  await page.evaluate(() => server.write((tx) => tx.issue.update({ id: 1, title: 'Issue 12 too' })));
  await reads(tables, '3 rows');
  await page.getByLabel('Filter the rows').fill('nowhere');
  await reads(tables, '0 rows');
});

test('it shows what is pending and what was rejected, goes offline and online, and forgets the copy', async () => {
  const page = await opened();
  await page.evaluate(() => panel.shadowRoot.querySelectorAll('details').forEach((one) => (one.open = true)));
  const mutations = section(page, 'Mutations');
  await reads(mutations, 'None is pending, and none was rejected.');
  await page.getByRole('button', { name: 'Go offline' }).click();
  await reads(page.getByRole('status'), 'offline');
  await page.evaluate(() => {
    db.mutate((tx) => tx.issue.update({ id: 1, title: 'Not allowed' }));
    db.mutate((tx) => tx.issue.update({ id: 3, title: 'Allowed' }));
  });
  await reads(page.locator('summary'), 'Mutations (2 pending, 0 rejected)');
  await reads(mutations, '"title":"Allowed"');
  await page.getByRole('button', { name: 'Go online' }).click();
  await reads(page.locator('summary'), 'Mutations (0 pending, 1 rejected)');
  await reads(mutations, 'rejected · forbidden: ops[0]: the rules for updates of table `issue` say no');
  await page.getByRole('button', { name: 'Go offline' }).click();
  await page.evaluate(() => void db.mutate((tx) => tx.issue.update({ id: 3, title: 'To be lost' })));
  await page.getByRole('button', { name: 'Forget the copy…' }).click();
  const dialog = page.getByRole('dialog', { name: 'Forget the copy?' });
  await reads(dialog, '1 pending mutation will be lost');
  await dialog.getByRole('button', { name: 'Cancel' }).click();
  assert.equal(await page.evaluate(() => db.pending().length), 1);
  await page.getByRole('button', { name: 'Forget the copy…' }).click();
  await dialog.getByRole('button', { name: 'Forget' }).click();
  await page.waitForFunction(() => db.pending().length === 0 && db.table('issue').all().length === 0);
  await page.getByRole('button', { name: 'Go online' }).click();
  await page.waitForFunction(() => db.table('issue').all().length === 120);
  assert.equal(await page.evaluate(() => server.row('issue', 3).title), 'Allowed');
});

test('it shows subscriptions, and messages without tokens', async () => {
  const page = await opened();
  await open(page, 'Subscriptions');
  await reads(section(page, 'Subscriptions'), 'The connection has none.');
  await page.evaluate(() => (window.channel = db.subscribe('channel', { channel: 7 })).ready);
  await reads(section(page, 'Subscriptions (1)'), 'channel {"channel":7} · ready');
  await open(page, 'Messages');
  const messages = section(page, 'Messages');
  await reads(messages, '↑ sent subscribe');
  const connect = messages.locator('li details', { hasText: 'sent connect' });
  await connect.locator('summary').click();
  await reads(connect.locator('pre'), '"clientId"');
  assert.match(await connect.locator('pre').textContent(), /"token": "…"/);
  await page.evaluate(() => server.write((tx) => tx.project.update({ id: 1, name: 'New' })));
  await reads(messages, '↓ received tx');
  assert.ok(await connect.evaluate((one) => one.open), 'it stays open while messages come');
  await page.evaluate(async () => {
    for (let n = 0; n < 300; n++) server.write((tx) => tx.project.update({ id: 1, name: `${n}` }));
    await server.settled();
  });
  await page.waitForFunction(() => panel.shadowRoot.querySelectorAll('ol > li').length === 200);
  await messages.getByRole('button', { name: 'Clear' }).click();
  await page.waitForFunction(() => panel.shadowRoot.querySelectorAll('ol > li').length === 0);
});

test('the keyboard reaches everything', async () => {
  const page = await opened();
  const focused = () => page.evaluate(() => {
    const element = panel.shadowRoot.activeElement;
    return element?.getAttribute('aria-label') ?? element?.textContent;
  });
  const seen = [];
  for (let presses = 0; presses < 9; presses++) {
    await page.keyboard.press('Tab');
    seen.push(await focused());
  }
  assert.deepEqual(seen, ['Go offline', 'Forget the copy…', 'Tables (3)', 'Table', 'Filter the rows', 'Rows of issue', 'Mutations (0 pending, 0 rejected)', 'Subscriptions (0)', 'Messages (5)']);
  await page.getByRole('button', { name: 'Forget the copy…' }).focus();
  await page.keyboard.press('Enter');
  assert.equal(await focused(), 'Cancel');
  await page.keyboard.press('Escape');
  assert.equal(await focused(), 'Forget the copy…');
});

for (const colorScheme of ['light', 'dark']) {
  for (const width of [390, 1280]) {
    test(`axe finds nothing, and nothing is cut off, in ${colorScheme} at ${width} pixels`, async () => {
      const page = await opened({ colorScheme, viewport: { width, height: 900 } });
      await page.evaluate(async () => {
        panel.shadowRoot.querySelectorAll('details').forEach((one) => (one.open = true));
        db.mutate((tx) => tx.issue.update({ id: 1, title: 'Not allowed' }));
        await db.subscribe('channel', { channel: 7 }).ready;
        server.offline();
        db.mutate((tx) => tx.issue.update({ id: 3, title: 'Offline' }));
      });
      await reads(page.locator('summary'), 'Mutations (1 pending, 1 rejected)');
      assert.deepEqual(await violations(page), []);
      assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
      await page.getByRole('button', { name: 'Forget the copy…' }).click();
      assert.deepEqual(await violations(page), []);
      await page.getByRole('button', { name: 'Cancel' }).click();
      if (process.env.ROWTIDE_SCREENSHOT && width === 1280 && colorScheme === 'light') {
        await page.locator('rowtide-devtools').screenshot({ path: process.env.ROWTIDE_SCREENSHOT });
      }
    });
  }
}

test('it goes with its element, and an application that does not use it does not have it', async () => {
  const page = await opened();
  const [isTraced, isLeft] = await page.evaluate(() => {
    const isTraced = typeof db.trace === 'function';
    panel.remove();
    return [isTraced, db.trace === undefined];
  });
  assert.deepEqual([isTraced, isLeft], [true, true]);
  const contents = "import { defineDevtools } from '@rowtide/client/devtools'; import '@rowtide/client/testing'; if (DEV) defineDevtools(); console.log(1)";
  const { outputFiles } = await build({ stdin: { contents, resolveDir: new URL('.', import.meta.url).pathname }, bundle: true, minify: true, format: 'esm', write: false, define: { DEV: 'false' } });
  assert.equal(outputFiles[0].text.trim(), 'console.log(1);');
});
