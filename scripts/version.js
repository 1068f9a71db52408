// version.js: prints the version that the server, the crates and the JavaScript packages have.
// version.js VERSION: sets it in every manifest and lock that names it.
// version.js --published: prints the package.json of each package that is published.
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';

const read = (path) => readFileSync(path, 'utf8');
const [, current] = read('Cargo.toml').match(/^\[workspace\.package\]\nversion = "(.*)"$/m);

const js = 'clients/js';
const manifests = JSON.parse(read(`${js}/package.json`)).workspaces.map((workspace) => `${js}/${workspace}/package.json`);

/** Every file below `directory` that has this name. */
function* found(directory, name) {
  for (const entry of readdirSync(directory, { withFileTypes: true })) {
    if (entry.isDirectory() && !['node_modules', 'target', '.git'].includes(entry.name)) yield* found(`${directory}/${entry.name}`, name);
    else if (entry.name === name) yield `${directory}/${entry.name}`;
  }
}

/** Replaces all that `pattern` finds, which has what stands before the version in its first group. */
function replace(path, pattern, version) {
  const text = read(path);
  const replaced = text.replace(pattern, (all, head) => `${head}${version}"`);
  if (replaced !== text) writeFileSync(path, replaced);
}

function set(version) {
  const now = current.replaceAll('.', '\\.');
  replace('Cargo.toml', /^(\[workspace\.package\]\nversion = ").*"$/m, version);
  // What has a source comes from elsewhere, also where its name begins like one of ours.
  replace('Cargo.lock', new RegExp(`^(name = "rowtide[a-z-]*"\\nversion = ")${now}"(?!\\nsource)`, 'gm'), version);
  for (const path of manifests) {
    replace(path, new RegExp(`^(  "version": ")${now}"`, 'm'), version);
    replace(path, new RegExp(`("@rowtide/[a-z-]+": ")${now}"`, 'g'), version);
  }
  for (const path of found('.', 'package-lock.json')) {
    replace(path, new RegExp(`("name": "@rowtide/[a-z-]+",\\n\\s*"version": ")${now}"`, 'g'), version);
    replace(path, new RegExp(`("@rowtide/[a-z-]+": ")${now}"`, 'g'), version);
  }
}

const [, , wanted] = process.argv;
if (!wanted) console.log(current);
else if (wanted === '--published') console.log(manifests.filter((path) => !JSON.parse(read(path)).private).join('\n'));
else set(wanted);
