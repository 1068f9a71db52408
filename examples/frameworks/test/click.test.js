// An example as people have it: built, in Chromium, over `rowtide dev`. ROWTIDE_FRAMEWORK names the example, or several.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { createServer, request } from 'node:http';
import { connect } from 'node:net';
import { extname } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { PATIENCE, Server, eventually, launch, wire } from '../../../clients/js/test/kit.js';

const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css' };

const stops = [];
let browser;
let server;
before(async () => {
  [browser, server] = await Promise.all([launch(), Server.start('--example', 'tracker')]);
});
after(() => Promise.all([...stops.map((stop) => stop()), browser?.close(), server?.end()]));

/** Serves a built example, and before it the server. */
async function site(framework) {
  const dist = fileURLToPath(new URL(`../${framework}/dist/`, import.meta.url));
  // Angular's builder has a directory for what is for browsers.
  const root = existsSync(`${dist}browser`) ? `${dist}browser` : dist;
  const listener = createServer((asked, answer) => {
    const { pathname } = new URL(asked.url, 'http://localhost');
    if (pathname.startsWith('/playground/')) {
      const { method, url, headers } = asked;
      const there = request({ port: server.port, method, path: url, headers: { ...headers, host: `127.0.0.1:${server.port}` } }, (from) => {
        answer.writeHead(from.statusCode, from.headers);
        from.pipe(answer);
      });
      asked.pipe(there);
      return;
    }
    const file = `${root}/${pathname === '/' ? 'index.html' : pathname}`;
    if (!existsSync(file)) return void answer.writeHead(404).end();
    answer.setHeader('content-type', TYPES[extname(file)] ?? 'application/octet-stream').end(readFileSync(file));
  });
  listener.on('upgrade', ({ url, rawHeaders }, near, head) => {
    const far = connect(server.port, '127.0.0.1');
    const headers = rawHeaders.map((text, at) => (at % 2 ? `${text}\r\n` : `${text}: `)).join('');
    far.write(`GET ${url} HTTP/1.1\r\n${headers}\r\n`);
    far.write(head);
    for (const [one, other] of [[near, far], [far, near]]) {
      one.on('error', () => {});
      one.on('close', () => other.destroy());
      one.pipe(other);
    }
  });
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  stops.push(() => (listener.closeAllConnections(), listener.close()));
  return `http://127.0.0.1:${listener.address().port}/`;
}

/** Starts the built example of Next.js, which has a server of its own. */
async function next() {
  const closed = createServer().listen(0, '127.0.0.1');
  await once(closed, 'listening');
  const { port } = closed.address();
  await new Promise((resolve) => closed.close(resolve));
  const url = `http://127.0.0.1:${port}/`;
  const directory = fileURLToPath(new URL('../next/', import.meta.url));
  const env = { ...process.env, DATABASE_URL: server.database, SYNC_URL: `ws://127.0.0.1:${server.port}/sync`, NEXT_TELEMETRY_DISABLED: '1' };
  const started = spawn(process.execPath, ['node_modules/next/dist/bin/next', 'start', '-H', '127.0.0.1', '-p', `${port}`], { cwd: directory, env });
  const exit = once(started, 'exit');
  stops.push(() => (started.kill('SIGTERM'), exit));
  const answer = await eventually('Next.js listens', () => fetch(url).catch(() => undefined));
  // Rendered on the server, where there is no client.
  const page = await answer.text();
  assert.equal(page.match(/<li /g)?.length, 10, page);
  assert.match(page, /Issue 10\D/);
  return url;
}

/** A window of its own. */
async function open(t, url) {
  const context = await browser.newContext();
  context.setDefaultTimeout(PATIENCE);
  const page = await context.newPage();
  const errors = [];
  page.on('pageerror', (error) => errors.push(error.stack));
  page.on('console', (message) => message.type() === 'error' && !/ERR_|Failed to load|WebSocket/.test(message.text()) && errors.push(message.text()));
  const line = await wire(page);
  t.after(async () => {
    await context.close();
    assert.deepEqual(errors, []);
  });
  await page.goto(url);
  const row = (title) => page.getByRole('listitem').filter({ hasText: title });
  const box = (title) => row(title).getByRole('checkbox');
  const status = page.getByRole('status');
  return {
    line,
    row,
    box,
    add: async (title) => {
      await page.getByLabel('New issue').fill(title);
      await page.getByLabel('New issue').press('Enter');
      await row(title).waitFor();
    },
    remove: (title) => row(title).getByRole('button').click(),
    gone: (title) => row(title).waitFor({ state: 'detached' }),
    says: (words) => eventually(words, async () => (await status.innerText()).includes(words)),
    waits: (title, does) => eventually(`${title} waits: ${does}`, async () => (await row(title).getAttribute('aria-busy')) === String(does)),
    isDone: (title, done) => eventually(`${title} is done: ${done}`, async () => (await box(title).isChecked()) === done),
  };
}

for (const framework of (process.env.ROWTIDE_FRAMEWORK ?? 'vue svelte solid angular next').split(' ')) {
  test(`${framework}: two pages see what the other writes, and what waits is shown`, async (t) => {
    const url = await (framework === 'next' ? next() : site(framework));
    const [one, other] = await Promise.all([open(t, url), open(t, url)]);
    await Promise.all([one.says('live, 0 not sent yet'), other.says('live, 0 not sent yet')]);
    await one.add(`New in ${framework}`);
    await other.row(`New in ${framework}`).waitFor();
    await other.box(`New in ${framework}`).click();
    await one.isDone(`New in ${framework}`, true);
    await one.box(`New in ${framework}`).click();
    await other.isDone(`New in ${framework}`, false);

    one.line.cut();
    await one.says('offline');
    await one.add('In a tunnel');
    await one.says('1 not sent yet');
    await one.waits('In a tunnel', true);
    one.line.repair();
    await other.row('In a tunnel').waitFor();
    await one.says('0 not sent yet');
    await one.waits('In a tunnel', false);

    for (const title of [`New in ${framework}`, 'In a tunnel']) {
      await other.remove(title);
      await one.gone(title);
    }
  });
}
