// What the client costs a page: minified and compressed, as a bundler and a server deliver it.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';

const MAX_BYTES = 10_000;

test('the client has less than 10 kB', async () => {
  const { outputFiles } = await build({
    entryPoints: [new URL('../src/index.js', import.meta.url).pathname],
    bundle: true,
    minify: true,
    format: 'esm',
    write: false,
  });
  const bytes = gzipSync(outputFiles[0].contents, { level: 9 }).length;
  assert.ok(bytes < MAX_BYTES, `${bytes} bytes`);
  console.log(`${bytes} bytes`);
});
