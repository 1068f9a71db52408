// packages.js DIRECTORY: writes there what scripts/packages.sh installs and checks in an application: `others`, the tarballs that
// the documentation's first steps do not install, with what they build on; `check.ts`, which imports all that is exported, and its configuration.
// packages.js --pin LOCK: gives the dependencies of the application here the versions of a lock, and leaves out what only lints.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const json = (path) => JSON.parse(readFileSync(path, 'utf8'));

function pin(lock) {
  const { packages } = json(lock);
  const manifest = json('package.json');
  for (const dependencies of [manifest.dependencies, manifest.devDependencies]) {
    delete dependencies.oxlint;
    for (const name of Object.keys(dependencies)) dependencies[name] = packages[`node_modules/${name}`]?.version ?? dependencies[name];
  }
  writeFileSync('package.json', JSON.stringify(manifest, null, 2));
}

function write(directory) {
  const packages = new URL('../clients/js/', import.meta.url).pathname;
  const tarballs = new URL('../target/packages/', import.meta.url).pathname;
  const manifests = json(join(packages, 'package.json'))
    .workspaces.map((workspace) => json(join(packages, workspace, 'package.json')))
    .filter((manifest) => !manifest.private);

  const others = [];
  for (const { name, version, peerDependencies = {} } of manifests) {
    if (['@rowtide/client', '@rowtide/react'].includes(name)) continue;
    others.push(`${tarballs}${name.slice(1).replace('/', '-')}-${version}.tgz`);
    for (const [peer, range] of Object.entries(peerDependencies)) {
      if (!peer.startsWith('@rowtide/') && peer !== 'react') others.push(`${peer}@${range}`);
    }
  }
  writeFileSync(join(directory, 'others'), others.map((line) => `${line}\n`).join(''));

  const entries = manifests.flatMap(({ name, exports }) =>
    Object.keys(exports).filter((entry) => !entry.endsWith('.json')).map((entry) => name + entry.slice(1)));
  const imports = entries.map((entry, at) => `export * as entry${at} from '${entry}';\n`);
  writeFileSync(join(directory, 'check.ts'), `${imports.join('')}
import { createClient } from '@rowtide/client';
import { subscriptions } from '@rowtide/client/subscriptions';
import { useQuery, useStatus } from '@rowtide/react';
import { type Schema, tables } from './schema.js';

declare module '@rowtide/react' {
  interface Register { schema: Schema }
}

const db = createClient<Schema>({ url: 'ws://localhost/sync', token: () => null, tables, subscriptions: subscriptions() });
export const name: string | undefined = db.table('file').get('f1')?.name;
export const names = (): string[] => useQuery('file', { ownerId: 'u1' }).map((file) => file.name);
export const pending = (): number => useStatus((status) => status.pending);
// @ts-expect-error: there is no such table.
db.table('no_table');
// @ts-expect-error: there is no such column.
useQuery('file', { noColumn: 1 });
`);
  const compilerOptions = {
    module: 'nodenext', moduleResolution: 'nodenext', target: 'es2022', lib: ['es2022', 'dom'], types: [], strict: true, noEmit: true,
  };
  writeFileSync(join(directory, 'tsconfig.check.json'), JSON.stringify({ compilerOptions, files: ['src/check.ts'] }));
}

if (process.argv[2] === '--pin') pin(process.argv[3]);
else write(process.argv[2]);
