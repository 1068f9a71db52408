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
    // What is loaded when it is needed is a file of its own.
    splitting: true,
    chunkNames: '[name]',
    outdir: 'any',
  });
  return gzipSync(outputFiles[0].contents, { level: 9 }).length;
}

const CORE = "export * from './index.js';";
for (const [what, contents, most] of [
  ['the client has less than 10 kB', CORE, 10_000],
  ['with subscriptions it has less than 12 kB', `${CORE} export * from './subscriptions.js';`, 12_000],
]) {
  test(what, async () => {
    const bytes = await bytesOf(contents);
    assert.ok(bytes < most, `${bytes} bytes`);
    console.log(`${bytes} bytes`);
  });
}
