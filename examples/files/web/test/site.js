// What the tests in a browser share: the built application over a real server, and people who are signed in. Both are
// started once, since that is what takes longest.

import assert from 'node:assert/strict';
import { after, before } from 'node:test';
import { fileURLToPath } from 'node:url';
import { build, preview } from 'vite';
import { PATIENCE, Server, launch, wire } from '../../../../clients/js/test/kit.js';

export const ROOT = fileURLToPath(new URL('..', import.meta.url));

/** What is to be stopped at the end. */
export const running = [];
let browser;
let app;
/** @type {Server} */
export let server;

/** The built page over `site`. */
export async function serve(site) {
  process.env.SYNC_SERVER = site.url;
  const served = await preview({ root: ROOT, logLevel: 'error', preview: { host: '127.0.0.1', port: 0 } });
  running.push(() => served.close());
  return served.resolvedUrls.local[0];
}

before(async () => {
  [browser, server] = await Promise.all([launch(), Server.start(), build({ root: ROOT, logLevel: 'error' })]);
  running.push(() => browser.close(), () => server.end());
  app = await serve(server);
});

after(() => Promise.all(running.map((stop) => stop())));

/** The result of a statement. */
export const one = (sql) => server.sql(sql);

/** A window of its own. */
export async function open(t, to = '', { url = app, ...options } = {}) {
  const context = await browser.newContext({ permissions: ['clipboard-read', 'clipboard-write'], ...options });
  context.setDefaultTimeout(PATIENCE);
  const page = await context.newPage();
  const errors = [];
  page.on('pageerror', (error) => errors.push(error.stack));
  const line = await wire(page);
  t.after(async () => {
    await context.close();
    assert.deepEqual(errors, []);
  });
  await page.goto(url + to);
  return { page, line };
}

/** A window of its own, in which `user` is signed in. */
export async function signIn(t, user, { to = '', ...options } = {}) {
  const { page, line } = await open(t, to, options);
  await page.getByLabel('The id of a user').fill(user);
  await page.getByRole('button', { name: 'Sign in' }).click();
  const list = page.getByRole('list', { name: 'Files' });
  const row = (name) => list.getByRole('listitem').filter({ has: page.getByText(name, { exact: true }) });
  const choose = async (name, action) => {
    await page.getByRole('button', { name: `Actions for ${name}`, exact: true }).click();
    await page.getByRole('menuitem', { name: action }).click();
  };
  return { page, list, row, choose, line };
}
