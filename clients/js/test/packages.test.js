// What is published of each package: what its package.json says, what is in its tarball, and whether tools and TypeScript find it there.
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { publint } from 'publint';
import { formatMessage } from 'publint/utils';

const here = new URL('../', import.meta.url).pathname;
const repository = new URL('../../../', import.meta.url).pathname;
const read = (...path) => readFileSync(join(...path), 'utf8');
const json = (...path) => JSON.parse(read(...path));

/** The workspaces that are published. */
const published = json(here, 'package.json').workspaces.filter((directory) => !json(here, directory, 'package.json').private);
const LICENCES = ['LICENSE', 'LICENSE-APACHE', 'LICENSE-MIT'];
const [, version] = read(repository, 'Cargo.toml').match(/^version = "(.*)"$/m);

/** Every file that `exports`, or a part of it, names. */
const filesOf = (exports) => (typeof exports === 'string' ? [exports] : Object.values(exports).flatMap(filesOf));

let tarballs;
const packed = new Map();
before(() => {
  tarballs = mkdtempSync(join(tmpdir(), 'rowtide-packages-'));
  const workspaces = published.flatMap((directory) => ['--workspace', directory]);
  const said = execFileSync('npm', ['pack', '--json', '--pack-destination', tarballs, ...workspaces], { cwd: here, encoding: 'utf8' });
  for (const one of Object.values(JSON.parse(said))) packed.set(one.name, one);
});
after(() => rmSync(tarballs, { recursive: true, force: true }));

test('the client and its hooks are published', () => {
  for (const directory of ['client', 'react']) assert.ok(published.includes(directory), directory);
});

for (const directory of published) {
  const manifest = json(here, directory, 'package.json');

  describe(manifest.name, () => {
    test('says what it is', () => {
      assert.equal(manifest.name, `@rowtide/${directory}`);
      assert.match(manifest.description, /\.$/);
      assert.ok(manifest.keywords.includes('rowtide'), 'keywords');
      assert.equal(manifest.license, '(MIT OR Apache-2.0)');
      assert.deepEqual(manifest.publishConfig, { access: 'public', provenance: true });
      assert.deepEqual([manifest.type, manifest.engines], ['module', { node: '>=20' }]);
      // What is imported for what it exports alone may be left out; a list names what is not.
      if (!manifest.bin) assert.ok(manifest.sideEffects === false || Array.isArray(manifest.sideEffects), 'sideEffects');
    });

    test('has the version of the server, and wants the same of its siblings', () => {
      assert.equal(manifest.version, version);
      for (const [name, range] of Object.entries({ ...manifest.dependencies, ...manifest.peerDependencies })) {
        if (name.startsWith('@rowtide/')) assert.equal(range, version, name);
      }
    });

    test('gives types for all that it exports', () => {
      const { './package.json': self, ...entries } = manifest.exports;
      assert.equal(self, './package.json');
      for (const [entry, { types, default: module }] of Object.entries(entries)) {
        assert.match(types ?? '', /\.d\.ts$/, `types of ${entry}`);
        assert.match(module ?? '', /\.js$/, entry);
      }
      assert.deepEqual([manifest.main, manifest.types], [entries['.'].default, entries['.'].types]);
    });

    test('packs its sources, its README and its licences, and nothing else', () => {
      const files = packed.get(manifest.name).files.map(({ path }) => path);
      const sources = files.filter((file) => /^src\/[\w./-]+\.(js|d\.ts)$/.test(file) && !/\/tests?\/|\.test/.test(file));
      assert.deepEqual(files.filter((file) => !sources.includes(file)).sort(), [...LICENCES, 'README.md', 'package.json'].sort());
      for (const file of filesOf(manifest.exports)) assert.ok(files.includes(file.slice(2)), file);
      for (const file of LICENCES) assert.equal(read(here, directory, file), read(repository, file), `${file} is that of the repository`);
    });

    test('has a README that stands alone', () => {
      const readme = read(here, directory, 'README.md');
      assert.ok(readme.startsWith(`# ${manifest.name}\n`));
      assert.match(readme, /npm install .*@rowtide\//);
      assert.deepEqual([...readme.matchAll(/\]\((?!https:|#)[^)]*\)/g)].map(String), [], 'links into the repository');
    });

    test('publint finds nothing', async () => {
      const tarball = readFileSync(join(tarballs, packed.get(manifest.name).filename));
      const { messages } = await publint({ pack: { tarball: tarball.buffer.slice(tarball.byteOffset, tarball.byteOffset + tarball.length) }, strict: true });
      assert.deepEqual(messages.map((message) => formatMessage(message, manifest)), []);
    });

    test('TypeScript finds its types, however it looks for them', () => {
      // Without CommonJS, and without the resolution that does not know `exports`: these packages are ES modules.
      const { status, stdout } = spawnSync(
        process.execPath,
        [join(here, 'node_modules/@arethetypeswrong/cli/dist/index.js'), join(tarballs, packed.get(manifest.name).filename), '--profile', 'esm-only', '--no-definitely-typed', '--no-color', '--no-emoji'],
        { encoding: 'utf8' },
      );
      assert.equal(status, 0, stdout);
    });
  });
}
