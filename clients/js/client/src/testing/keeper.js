/**
 * Keeps `rowtide dev` for a test, as a process of its own. When its input ends, since the test has stopped it or has
 * gone in whatever way, it ends the server, which ends its PostgreSQL, and removes the directory. Arguments: the
 * directory, then the program and its arguments.
 */
import { spawn } from 'node:child_process';
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';

/** How often it looks whether PostgreSQL has ended, in ms, and how often at most. */
const LOOK_MS = 20;
const LOOKS = 500;

const [directory, program, ...args] = process.argv.slice(2);
const server = spawn(program, args, { stdio: ['ignore', 'inherit', 'inherit'] });
const stop = () => void server.kill('SIGTERM');
process.stdin.on('end', stop).on('error', stop).resume();
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, stop);
// Whoever has read its output may be gone.
process.stdout.on('error', () => {});
process.stderr.on('error', () => {});
server.on('error', (error) => {
  console.error(error.message);
  leave(1);
});
server.on('exit', (code) => leave(code ?? 1));

/** @param {number} code */
async function leave(code) {
  // A server that was killed has left its PostgreSQL behind.
  const postgres = running();
  if (postgres) process.kill(postgres, 'SIGQUIT');
  for (let looks = 0; running() && looks < LOOKS; looks++) await new Promise((next) => setTimeout(next, LOOK_MS));
  rmSync(directory, { recursive: true, force: true });
  process.exit(code);
}

/** The process of PostgreSQL, if there is one. */
function running() {
  try {
    const pid = Number(readFileSync(join(directory, 'dev/postgres/postmaster.pid'), 'utf8').split('\n')[0]);
    process.kill(pid, 0);
    return pid;
  } catch {
    return undefined;
  }
}
