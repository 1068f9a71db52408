// What the client costs a page: minified and compressed, as a bundler and a server deliver it.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';

/** The bytes of a program. @param {string} contents */
async function bytesOf(contents) {
  const { outputFiles } = await build({
    stdin: { contents, resolveDir: new URL('../src/', import.meta.url).pathname },
    bundle: true,
    minify: true,
    format: 'esm',
    write: false,
  });
  return gzipSync(outputFiles[0].contents, { level: 9 }).length;
}

const CORE = "export { createClient } from './index.js';";
const QUERIES = "export * from './queries.js';";
const SUBSCRIPTIONS = "export * from './subscriptions.js';";
for (const [what, contents, most] of [
  ['the client has less than 10 kB', CORE, 10_000],
  ['with all that its own entry has', "export * from './index.js';", 10_000],
  ['with subscriptions it has less than 12 kB', `${CORE} ${SUBSCRIPTIONS}`, 12_000],
  ['with queries it has less than 14 kB', `${CORE} ${QUERIES}`, 14_000],
  ['with both it has less than 16 kB', `${CORE} ${QUERIES} ${SUBSCRIPTIONS}`, 16_000],
]) {
  test(what, async () => {
    const bytes = await bytesOf(contents);
    assert.ok(bytes < most, `${bytes} bytes`);
    console.log(`${bytes} bytes`);
  });
}
