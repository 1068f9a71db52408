// What the client costs a page: minified and compressed, as a bundler and a server deliver it.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';

/** The bytes of a program: of what it begins with, and of what it loads when it needs that. @param {string} contents */
async function bytesOf(contents) {
  const { outputFiles, metafile } = await build({
    stdin: { contents, resolveDir: new URL('../src/', import.meta.url).pathname },
    bundle: true,
    splitting: true,
    minify: true,
    format: 'esm',
    write: false,
    metafile: true,
    outdir: '/',
  });
  const sizes = outputFiles.map((file) => gzipSync(file.contents, { level: 9 }).length);
  const loadedLater = Object.values(metafile.outputs).flatMap(({ imports }) => imports);
  // A part that the beginning imports would be of the beginning.
  assert.ok(loadedLater.every(({ kind }) => kind === 'dynamic-import'));
  const begins = sizes[Object.values(metafile.outputs).findIndex(({ entryPoint }) => entryPoint)];
  return { begins, all: sizes.reduce((sum, size) => sum + size) };
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
  test(`${what} that a page loads at first, and less than 1.5 kB later, to store the copy in a browser and to inflate`, async () => {
    const { begins, all } = await bytesOf(contents);
    console.log(`${begins} bytes, and ${all - begins} later`);
    assert.ok(begins < most, `${begins} bytes`);
    assert.ok(all - begins < 1500, `${all - begins} bytes`);
  });
}
