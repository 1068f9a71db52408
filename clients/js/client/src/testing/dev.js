/**
 * Starts `rowtide dev` for tests: the real server on a PostgreSQL of its own, at a free port, in a temporary directory.
 * All of it is gone when the test stops it, and when the test's process ends in any other way: a second process, whose
 * input ends then, looks after it. For Node alone.
 */
import { execFile, spawn } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { accessSync, chmodSync, constants, existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

/** How long the server may take to be there, in ms, unless the test says otherwise. */
const START_MS = 120_000;
/** How long a token is good, in seconds. */
const TOKEN_SECONDS = 86_400;
/** How much of the server's errors is kept, in characters. */
const MAX_SAID = 20_000;
/** What `psql` prints for null: no text of a test has it. */
const NULL = '\u0007null\u0007';

/**
 * @typedef {{ url: string, database: string, secret: string }} Shared what another process needs to join
 * @typedef {object} DevOptions
 * @property {string} [binary] default: `ROWTIDE_BIN`, or `rowtide` on the path
 * @property {string} [definition] a file
 * @property {string} [migrations] a directory
 * @property {string} [example] instead of both
 * @property {string[]} [args] more arguments of `rowtide dev`
 * @property {number} [timeout] how long it may take to start, in ms
 */

/** @param {DevOptions} [options] */
export async function startDev({ binary, definition, migrations, example, args = [], timeout = START_MS } = {}) {
  const program = found(binary ?? process.env.ROWTIDE_BIN ?? 'rowtide');
  for (const path of [definition, migrations]) {
    if (path && !existsSync(path)) throw new Error(`there is no \`${resolve(path)}\``);
  }
  const directory = mkdtempSync(join(tmpdir(), 'rowtide-test-'));
  // PostgreSQL does not run as root: another user must come in.
  chmodSync(directory, 0o755);
  const named = { '--definition': definition, '--migrations': migrations, '--example': example };
  const given = Object.entries(named).flatMap(([name, value]) => (value === undefined ? [] : [name, name === '--example' ? value : resolve(value)]));
  const all = ['dev', '--dir', join(directory, 'dev'), '--listen', '127.0.0.1:0', ...given, ...args];
  const keeper = fileURLToPath(new URL('./keeper.js', import.meta.url));
  // In a group of its own, so that a Ctrl-C reaches it only as the end of its input.
  const child = spawn(process.execPath, [keeper, directory, program, ...all], { env: environment(), detached: true, cwd: directory });
  const gone = new Promise((ended) => child.on('exit', ended));
  const stop = async () => {
    child.ref();
    child.stdin.end();
    await gone;
    // The keeper has removed it, unless it was killed.
    rmSync(directory, { recursive: true, force: true });
  };
  let said = '';
  child.stderr.on('data', (data) => (said = `${said}${data}`.slice(-MAX_SAID)));
  /** @type {NodeJS.Timeout | undefined} */
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`\`rowtide dev\` was not ready within ${timeout} ms:\n${said}`)), timeout);
  });
  try {
    const { url, database } = /** @type {any} */ (await Promise.race([ready(child.stdout), late]));
    if (!url) {
      await gone;
      throw new Error(`\`rowtide dev\` did not start:\n${said.trim()}`);
    }
    const secret = readFileSync(join(directory, 'dev/token-secret'), 'utf8').trim();
    // It does not keep the test's process from ending.
    for (const part of [child, child.stdin, child.stdout, child.stderr]) /** @type {any} */ (part).unref();
    return { ...joinDev({ url, database, secret }), stop };
  } catch (error) {
    await stop();
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

/**
 * What `startDev` has started, in another process: `shared` is what it returned there.
 * @param {Shared} shared
 */
export function joinDev(shared) {
  const { url, database, secret } = shared;
  return {
    shared,
    url,
    /** @param {string} user @param {Record<string, any>} [claims] */
    token(user, claims = {}) {
      const part = (/** @type {object} */ value) => Buffer.from(JSON.stringify(value)).toString('base64url');
      const exp = Math.floor(Date.now() / 1000) + TOKEN_SECONDS;
      const text = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ exp, ...claims, sub: user })}`;
      return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`;
    },
    /** @param {string} text */
    async sql(text) {
      const args = ['-qX', '--csv', '-v', 'ON_ERROR_STOP=1', '-P', `null=${NULL}`, database, '-c', text];
      const output = await run(psql(), args);
      const [columns, ...rows] = csv(output);
      return rows.map((row) => Object.fromEntries(row.map((value, at) => [columns[at] ?? '', value === NULL ? null : value])));
    },
  };
}

/**
 * Reads what the server prints until it is ready.
 * @param {import('node:stream').Readable} stdout
 * @returns {Promise<{ url?: string, database?: string }>} nothing if it has ended
 */
async function ready(stdout) {
  let [url, database] = ['', ''];
  for await (const line of createInterface({ input: stdout })) {
    url ||= line.match(/^ready http:\/\/(\S+)/)?.[1] ?? '';
    database ||= line.match(/^psql '(.*)'/)?.[1] ?? '';
    if (!url || !database) continue;
    // What comes later is not read, and must not fill the pipe.
    stdout.resume();
    return { url: `ws://${url}/sync`, database };
  }
  return {};
}

/** @param {string} program a path, or a name on the path */
function found(program) {
  const isFile = (/** @type {string} */ path) => {
    try {
      accessSync(path, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  };
  const paths = /[/\\]/.test(program) ? [resolve(program)] : (process.env.PATH ?? '').split(delimiter).map((at) => join(at, program));
  const path = paths.find(isFile);
  if (path) return path;
  throw new Error(
    `there is no program \`${program}\`: install the server (\`cargo install --path crates/rowtide\` in a checkout of Rowtide), ` +
      'or name it as `binary` of `startDev`, or in ROWTIDE_BIN',
  );
}

/** The environment without what would configure the server. */
function environment() {
  const isSetting = (/** @type {string} */ name) => name === 'DATABASE_URL' || (name.startsWith('ROWTIDE_') && name !== 'ROWTIDE_PG_BIN');
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !isSetting(name)));
}

/** Where `psql` is: beside the server's binaries, or on the path. */
function psql() {
  const debian = '/usr/lib/postgresql';
  const versions = existsSync(debian) ? readdirSync(debian).sort((a, b) => Number(b) - Number(a)) : [];
  const directories = [process.env.ROWTIDE_PG_BIN ?? '', ...versions.map((version) => `${debian}/${version}/bin`)];
  return directories.filter(Boolean).map((at) => join(at, 'psql')).find(existsSync) ?? 'psql';
}

/** @param {string} program @param {string[]} args @returns {Promise<string>} */
function run(program, args) {
  return new Promise((done, reject) => {
    execFile(program, args, { maxBuffer: 1 << 28 }, (error, output, said) => {
      if (error) reject(new Error(said.trim() || error.message));
      else done(output);
    });
  });
}

/** @param {string} text @returns {string[][]} */
function csv(text) {
  /** @type {string[][]} */
  const rows = [];
  const field = /(?:"((?:[^"]|"")*)"|([^",\n]*))(,|\n|$)/gy;
  for (let row = /** @type {string[]} */ ([]), at = 0; at < text.length; ) {
    const [all, quoted, plain, end] = field.exec(text) ?? ['', '', '', ''];
    if (!all) break;
    row.push(quoted?.replaceAll('""', '"') ?? plain);
    at = field.lastIndex;
    if (end === ',') continue;
    rows.push(row);
    row = [];
  }
  return rows;
}
