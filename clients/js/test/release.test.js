// What scripts/release.sh does in a copy of the repository, and when it refuses to.
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { after, before, beforeEach, test } from 'node:test';

const repository = new URL('../../../', import.meta.url).pathname;
const NOT_IN_IT = ['node_modules', 'target', '.git', '.rowtide'];

let copy;
const git = (...args) => execFileSync('git', ['-c', 'user.name=one', '-c', 'user.email=one@example.com', ...args], { cwd: copy, encoding: 'utf8' });
const read = (path) => readFileSync(join(copy, path), 'utf8');
// Without a registry: whatever a test does, nothing is published.
const env = { ...process.env, npm_config_registry: 'http://127.0.0.1:9/' };
const release = (...args) => spawnSync(join(copy, 'scripts/release.sh'), args, { encoding: 'utf8', env });
const refuses = (args, reason) => {
  const { status, stderr } = release(...args);
  assert.equal(status, 1, stderr);
  assert.match(stderr, reason);
};

before(() => {
  copy = mkdtempSync(join(tmpdir(), 'rowtide-release-'));
  cpSync(repository, copy, { recursive: true, filter: (path) => !NOT_IN_IT.includes(basename(path)) });
  writeFileSync(join(copy, 'CHANGELOG.md'), read('CHANGELOG.md').replace('# Changelog\n', '# Changelog\n\n## 7.8.9\n\n- New.\n\n## 7.8.9-rc.1\n\n- New.\n'));
  git('init', '--quiet');
  git('add', '--all');
  git('commit', '--quiet', '--message', 'All');
});
after(() => rmSync(copy, { recursive: true, force: true }));
beforeEach(() => git('reset', '--quiet', '--hard'));

test('a release sets one version everywhere, makes the tarballs, and publishes nothing', () => {
  const { status, stdout, stderr } = release('7.8.9');
  assert.equal(status, 0, stderr);
  const changed = git('diff', '--name-only').trim().split('\n');
  for (const file of ['Cargo.toml', 'Cargo.lock', 'clients/js/client/package.json', 'clients/js/package-lock.json', 'examples/files/web/package-lock.json']) {
    assert.ok(changed.includes(file), file);
  }
  const { version, peerDependencies } = JSON.parse(read('clients/js/react/package.json'));
  assert.deepEqual([version, peerDependencies['@rowtide/client']], ['7.8.9', '7.8.9']);
  const lock = JSON.parse(read('clients/js/package-lock.json')).packages;
  assert.deepEqual([lock.client.version, lock.react.version, lock.react.peerDependencies['@rowtide/client']], ['7.8.9', '7.8.9', '7.8.9']);
  for (const [, name, crate, source] of read('Cargo.lock').matchAll(/^name = "(rowtide[a-z-]*)"\nversion = "(.*)"\n(source)?/gm)) {
    if (!source) assert.equal(crate, '7.8.9', name);
  }
  const added = git('diff', '--unified=0').split('\n').filter((line) => /^\+(?!\+)/.test(line));
  assert.deepEqual(added.filter((line) => !line.includes('7.8.9')), [], 'nothing but versions');

  const tarballs = readdirSync(join(copy, 'target/packages'));
  for (const name of ['client', 'react', 'schema-bundle']) {
    assert.ok(tarballs.includes(`rowtide-${name}-7.8.9.tgz`), name);
    assert.match(stdout, new RegExp(`npm publish \\./target/packages/rowtide-${name}-7\\.8\\.9\\.tgz --access public --provenance --tag latest`));
  }
});

test('a dry run leaves the tree as it was, and a version before a release is not the latest', () => {
  const { status, stdout, stderr } = release('7.8.9-rc.1', '--dry-run');
  assert.equal(status, 0, stderr);
  assert.equal(git('status', '--porcelain'), '');
  assert.match(stdout, /rowtide-client-7\.8\.9-rc\.1\.tgz .* --tag next/);
});

test('it refuses what is no version, a changelog that does not know it, and a tree that is not clean', () => {
  refuses([], /name a version/);
  refuses(['v1'], /name a version/);
  refuses(['7.8.9', '--force'], /no --force/);
  refuses(['9.9.9'], /no heading "## 9\.9\.9"/);
  writeFileSync(join(copy, 'README.md'), 'Something else');
  refuses(['7.8.9'], /not clean/);
});

test('it publishes only a commit that has the version, and packages that name their repository', () => {
  refuses(['7.8.9', '--publish'], /the version is .*: set it/);
  assert.equal(release('7.8.9').status, 0);
  const { repository: _, ...manifest } = JSON.parse(read('clients/js/client/package.json'));
  writeFileSync(join(copy, 'clients/js/client/package.json'), JSON.stringify(manifest));
  git('commit', '--quiet', '--all', '--message', 'Release');
  refuses(['7.8.9', '--publish'], /names no repository/);
});
