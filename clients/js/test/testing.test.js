// The ways to test an application against a real server: `startDev` by itself, in Vitest and as a fixture of Playwright.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { test } from 'node:test';
import { build } from 'esbuild';
import { startDev } from '@rowtide/client/testing/dev';
import { binary, eventually, launch } from './kit.js';

const project = new URL('fixtures/vitest/', import.meta.url).pathname;
const definition = join(project, 'rowtide.toml');
const migrations = join(project, 'migrations');

/** The directory of a server's PostgreSQL. */
const directoryOf = async (app) => dirname(dirname((await app.sql('SHOW data_directory'))[0].data_directory));
const isRunning = (pid) => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

test('what is missing is named, and how to get it; a server that does not start says why', async () => {
  await assert.rejects(startDev({ binary: 'rowtide-that-is-not-there' }), /no program `rowtide-that-is-not-there`: install the server .*cargo install/);
  await assert.rejects(startDev({ binary, definition: 'nowhere.toml' }), /there is no `.*nowhere.toml`/);
  const directory = mkdtempSync(join(tmpdir(), 'rowtide-broken-'));
  writeFileSync(join(directory, 'rowtide.toml'), '[tables.note]\nvisibel = "true"\n');
  await assert.rejects(startDev({ binary, definition: join(directory, 'rowtide.toml'), migrations }), /did not start:[^]*visibel/);
  rmSync(directory, { recursive: true });
});

test('Vitest runs tests on the server in memory, with its own clock, and on a server that its global setup has started', () => {
  const vitest = new URL('../node_modules/vitest/vitest.mjs', import.meta.url).pathname;
  const output = execFileSync(process.execPath, [vitest, 'run', '--reporter=verbose'], {
    cwd: project, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ROWTIDE_BIN: binary, CI: '1', NO_COLOR: '1' },
  });
  assert.match(output, /Tests +3 passed/);
});

test('a server goes with the process that has started it, however that ends', async () => {
  const dev = new URL('../client/src/testing/dev.js', import.meta.url).href;
  const script = `
    const { startDev } = await import('${dev}');
    const app = await startDev(${JSON.stringify({ binary, definition, migrations })});
    const [{ directory }] = await app.sql("SELECT current_setting('data_directory') AS directory");
    const [{ pid }] = await app.sql('SELECT pid FROM pg_stat_activity WHERE backend_type = \\'checkpointer\\'');
    console.log(JSON.stringify({ directory, pid: Number(pid) }));
    process.stdin.on('end', () => process.exit()).resume();`;
  const runner = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: ['pipe', 'pipe', 'inherit'] });
  const [line] = await once(createInterface({ input: runner.stdout }), 'line');
  const { directory, pid } = JSON.parse(line);
  assert.ok(isRunning(pid) && existsSync(directory));
  runner.kill('SIGKILL');
  await eventually('PostgreSQL has ended, and its files are gone', () => !isRunning(pid) && !existsSync(directory));
});

/** As docs/client.md has it for `base.extend`. */
const fixtures = {
  app: async ({}, use) => {
    const app = await startDev({ binary, definition, migrations });
    await use(app);
    await app.stop();
  },
};

test('a fixture of Playwright gives each worker a server, for pages that two people use', async () => {
  let directory;
  await fixtures.app({}, async (app) => {
    directory = await directoryOf(app);
    const contents = `
      import { createClient } from '@rowtide/client';
      const say = new URLSearchParams(location.search);
      window.db = createClient({ url: say.get('url'), token: () => say.get('token'), tables: { note: { key: ['id'] } } });
      const show = () => (document.body.textContent = db.table('note').all().map(({ body }) => body).join());
      db.subscribe(show);`;
    const bundle = await build({ stdin: { contents, resolveDir: project }, bundle: true, format: 'esm', write: false });
    const pages = createServer((request, response) => {
      const isScript = request.url === '/page.js';
      response.setHeader('content-type', isScript ? 'text/javascript' : 'text/html');
      response.end(isScript ? bundle.outputFiles[0].text : '<!doctype html><body><script type="module" src="/page.js"></script>');
    });
    await once(pages.listen(0, '127.0.0.1'), 'listening');
    const browser = await launch();
    try {
      const page = await browser.newPage();
      const query = new URLSearchParams({ url: app.url, token: app.token('ann') });
      await page.goto(`http://127.0.0.1:${pages.address().port}/?${query}`);
      await app.sql("INSERT INTO note (author, body) VALUES ('ann', 'From the database'), ('bob', 'Not for ann')");
      await page.waitForFunction(() => document.body.textContent === 'From the database', undefined, { polling: 50 });
    } finally {
      await browser.close();
      pages.closeAllConnections();
      pages.close();
    }
  });
  assert.ok(!existsSync(directory));
});
