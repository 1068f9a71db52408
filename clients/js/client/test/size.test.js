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

const CORE = "export * from './index.js';";
for (const [what, contents, most] of [
  ['the client has less than 10 kB', CORE, 10_000],
  ['with subscriptions it has less than 12 kB', `${CORE} export * from './subscriptions.js';`, 12_000],
]) {
  test(`${what}, and less than 1 kB that a browser loads to store the copy`, async () => {
    const { begins, all } = await bytesOf(contents);
    console.log(`${begins} bytes, ${all} in all`);
    assert.ok(begins < most, `${begins} bytes`);
    assert.ok(all - begins < 1000, `${all - begins} bytes`);
  });
}
