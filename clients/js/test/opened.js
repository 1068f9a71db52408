// opened.js DIRECTORY: opens a built page in a browser, with a server and a token in the place of those that its source names, and
// waits until it shows the rows. scripts/packages.sh gives it the application of docs/client.md.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { extname, join, normalize } from 'node:path';
import { PATIENCE, Server, launch } from './kit.js';

const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml' };
const directory = process.argv[2];

/** Resolves when the page is live and has every file of the person. @param {import('playwright-core').Page} page */
async function shown(page) {
  await page.goto(`http://127.0.0.1:${pages.address().port}/`);
  await page.locator('li input').first().fill('Named by the page');
  await page.getByText('live', { exact: true }).waitFor();
  const expected = server.sql(`SELECT count(*) FROM file WHERE "ownerId" = 'u1'`);
  assert.equal(await page.locator('li input').count(), Number(expected));
}

const server = await Server.start();
const pages = createServer((request, response) => {
  const { pathname } = new URL(request.url, 'http://localhost');
  const file = join(directory, normalize(pathname === '/' ? 'index.html' : pathname));
  if (!existsSync(file)) return response.writeHead(404).end();
  response.setHeader('content-type', TYPES[extname(file)] ?? 'application/octet-stream');
  if (extname(file) !== '.js') return response.end(readFileSync(file));
  const source = readFileSync(file, 'utf8')
    .replace('ws://127.0.0.1:4400/sync', `ws://127.0.0.1:${server.port}/sync`)
    .replace(/eyJ0eXAi(…|\\u2026)/, server.token('u1'));
  return response.end(source);
});
pages.listen(0, '127.0.0.1');
await once(pages, 'listening');
const browser = await launch();
try {
  const page = await browser.newPage();
  page.setDefaultTimeout(PATIENCE);
  const broken = new Promise((_, reject) => page.on('pageerror', reject));
  await Promise.race([broken, shown(page)]);
} finally {
  await browser.close();
  pages.closeAllConnections();
  pages.close();
  await server.end();
}
