// Shared by the tests that need a server: `rowtide dev` with the files example, a proxy in front of it that
// a test can cut, tokens, and pages of a browser that load the client's sources.
import { execFileSync, spawn } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, chmodSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import { connect, createServer as createTcpServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const repository = new URL('../../../', import.meta.url).pathname;
const target = process.env.CARGO_TARGET_DIR ?? join(repository, 'target');
export const binary = join(target, 'debug/rowtide');

/** The environment of the tests, without the variables that would configure the server. */
function environment() {
  const isSetting = (name) => name === 'DATABASE_URL' || (name.startsWith('ROWTIDE_') && name !== 'ROWTIDE_PG_BIN');
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !isSetting(name)));
}

/** A server on a private PostgreSQL, with the data of the files example. */
export class Server {
  #directory = mkdtempSync(join(tmpdir(), 'rowtide-js-'));
  #process;
  #more = [];
  port = 0;

  /** Starts a server. @param {string[]} more arguments of `rowtide dev` */
  static async start(...more) {
    if (!existsSync(binary)) throw new Error(`there is no ${binary}: cargo build -p rowtide`);
    const server = new Server();
    server.#more = more;
    // PostgreSQL does not run as root.
    chmodSync(server.#directory, 0o755);
    await server.start();
    return server;
  }

  async start() {
    const directory = join(this.#directory, 'dev');
    const options = ['--dir', directory, '--listen', `127.0.0.1:${this.port}`, ...this.#more];
    this.#process = spawn(binary, ['dev', ...options], { env: environment() });
    let errors = '';
    this.#process.stderr.on('data', (data) => (errors += data));
    for await (const line of createInterface({ input: this.#process.stdout })) {
      const [, port] = line.match(/^ready http:\/\/127\.0\.0\.1:(\d+)/) ?? [];
      if (port) this.port = Number(port);
      const [, database] = line.match(/^psql '(.*)'/) ?? [];
      if (database) this.database = database;
      if (line.startsWith('watch ')) return;
    }
    throw new Error(`the server did not start:\n${errors}`);
  }

  get url() {
    return `http://127.0.0.1:${this.port}`;
  }

  async stop() {
    const gone = once(this.#process, 'exit');
    this.#process.kill('SIGTERM');
    await gone;
  }

  async end() {
    await this.stop();
    rmSync(this.#directory, { recursive: true, force: true });
  }

  /** The output of a statement. @param {string} statement */
  sql(statement) {
    return execFileSync('psql', ['-qXAt', this.database, '-c', statement], { encoding: 'utf8' }).trim();
  }

  /** Writes the types of the files example. @param {string} file */
  types(file) {
    const definition = join(repository, 'examples/files/rowtide.toml');
    execFileSync(binary, ['types', '--database-url', this.database, '--definition', definition, '--out', file], { env: environment() });
  }

  /** @param {string} sub @param {number} [seconds] until it expires */
  token(sub, seconds = 3600) {
    const secret = readFileSync(join(this.#directory, 'dev/token-secret'), 'utf8').trim();
    const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
    const text = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ sub, exp: Math.floor(Date.now() / 1000) + seconds })}`;
    return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`;
  }
}

/** A proxy in front of the server that a test can cut. */
export class Proxy {
  sockets = new Set();
  open = true;
  /** How many connections were made in all. */
  made = 0;

  /** @param {Server} server */
  static async start(server) {
    const proxy = new Proxy();
    proxy.listener = createTcpServer((near) => {
      if (!proxy.open) return near.destroy();
      proxy.made += 1;
      const far = connect(server.port, '127.0.0.1');
      for (const [one, other] of [[near, far], [far, near]]) {
        proxy.sockets.add(one);
        one.on('error', () => {});
        one.on('close', () => (proxy.sockets.delete(one), other.destroy()));
        one.pipe(other);
      }
      return undefined;
    });
    proxy.listener.listen(0, '127.0.0.1');
    await once(proxy.listener, 'listening');
    proxy.url = `ws://127.0.0.1:${proxy.listener.address().port}/sync`;
    return proxy;
  }

  /** How many connections are open. */
  get connections() {
    return this.sockets.size / 2;
  }

  cut() {
    this.open = false;
    for (const socket of this.sockets) socket.destroy();
  }

  repair() {
    this.open = true;
  }

  end() {
    this.cut();
    this.listener.close();
  }
}

const PAGE = `<!doctype html><title>a page</title>
<script type="importmap">{ "imports": { "@rowtide/client": "/client/index.js", "@rowtide/client/subscriptions": "/client/subscriptions.js", "@rowtide/client/queries": "/client/queries.js" } }</script>
<script type="module">
  import * as client from '@rowtide/client';
  import { queries } from '@rowtide/client/queries';
  import { subscriptions } from '@rowtide/client/subscriptions';
  window.sent = [];
  window.start = (options = {}) => {
    const user = options.user ?? localStorage.getItem('user');
    if (options.user) localStorage.setItem('user', user);
    const token = async () => {
      const answer = await fetch('/token?user=' + user + '&seconds=' + (options.seconds ?? 3600));
      if (!answer.ok) throw new Error('no token');
      return answer.text();
    };
    window.db = client.createClient({ url: options.url, tables: options.tables, token, subscriptions: subscriptions({ ttl: options.ttl }), queries: options.queries ? queries() : undefined, trace: (direction, message) => direction === 'sent' && sent.push(message) });
    return db.opened;
  };
  window.until = (holds) => new Promise((resolve) => {
    const look = () => holds() && (stops.forEach((stop) => stop()), resolve());
    const stops = [db.subscribe(look), db.status.subscribe(look)];
    look();
  });
  window.loaded = true;
</script>`;

/** Serves the page, the client's sources, and tokens while the proxy is open. */
export async function site(server, proxy) {
  const source = new URL('../client/src/', import.meta.url);
  const listener = createServer((request, response) => {
    const { pathname, searchParams } = new URL(request.url, 'http://localhost');
    const answer = (type, body) => response.setHeader('content-type', type).end(body);
    if (pathname === '/token') {
      if (proxy.open) return answer('text/plain', server.token(searchParams.get('user'), Number(searchParams.get('seconds'))));
      return response.writeHead(503).end();
    }
    const [, conformance] = pathname.match(/^\/test\/(conformance|random)\.js$/) ?? [];
    if (conformance) return answer('text/javascript', readFileSync(new URL(`../test/${conformance}.js`, source)));
    const [, file] = pathname.match(/^\/client\/([a-z]+\.js)$/) ?? [];
    return file ? answer('text/javascript', readFileSync(new URL(file, source))) : answer('text/html', PAGE);
  });
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  return { url: `http://127.0.0.1:${listener.address().port}/`, end: () => (listener.closeAllConnections(), listener.close()) };
}

/** Debian's Chromium, or another that `ROWTIDE_CHROMIUM` names. */
export async function launch() {
  const { chromium } = await import('playwright-core');
  return chromium.launch({
    executablePath: process.env.ROWTIDE_CHROMIUM ?? '/usr/bin/chromium',
    timeout: PATIENCE,
    args: [
      '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync',
    ],
  });
}

/** Lets a test cut the connections of a page, and repair them. */
export async function wire(page) {
  const open = new Set();
  let isCut = false;
  await page.routeWebSocket(/\/sync$/, (socket) => {
    if (isCut) {
      socket.close();
      return;
    }
    open.add(socket);
    socket.connectToServer();
  });
  return {
    cut: () => {
      isCut = true;
      for (const socket of open) socket.close();
      open.clear();
    },
    repair: () => {
      isCut = false;
    },
  };
}

/** How long something that must happen may take, in milliseconds, also on a machine that is busy. */
export const PATIENCE = 120_000;

/** Waits until `look` finds something true, which it returns. */
export async function eventually(what, look) {
  const deadline = Date.now() + PATIENCE;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`not in time: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
