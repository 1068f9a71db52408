// Loads a module of the board without a browser: those that hold what is true of a drawing need none.

import { fileURLToPath } from 'node:url';
import { runnerImport } from 'vite';

export async function load(name) {
  const path = fileURLToPath(new URL(`../src/board/${name}.ts`, import.meta.url));
  return (await runnerImport(path, { configFile: false, logLevel: 'error' })).module;
}
