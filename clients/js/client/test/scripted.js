// A server over a real socket that sends what a test says.
import { once } from 'node:events';
import WebSocket, { WebSocketServer } from 'ws';
import { createClient } from '../src/index.js';

/** @param {string} sub @param {number} [exp] seconds since 1970 */
export function token(sub, exp = 4e9) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  return `${part({ alg: 'none' })}.${part({ sub, exp })}.`;
}

/** Waits for a promise, and fails the test when that takes too long. */
export function soon(promise, what, ms = 60_000) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`it did not come: ${what}`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Resolves when `holds` does. @param {any} observable with `get` and `subscribe` */
export function until(observable, holds, what = String(holds), ms = undefined) {
  return soon(new Promise((resolve) => {
    const look = () => {
      if (!holds(observable.get())) return;
      stop();
      resolve(observable.get());
    };
    const stop = observable.subscribe(look);
    look();
  }), what, ms);
}

/** The server's side of one connection. */
class ScriptedConnection {
  heard = [];
  #waiting = [];

  constructor(socket) {
    this.socket = socket;
    this.closed = once(socket, 'close');
    socket.on('message', (data) => {
      this.heard.push(JSON.parse(String(data)));
      for (const look of this.#waiting) look();
    });
  }

  /** The next message of a type. */
  next(type) {
    return soon(new Promise((resolve) => {
      const look = () => {
        const at = this.heard.findIndex((message) => message.type === type);
        if (at < 0) return;
        this.#waiting = this.#waiting.filter((other) => other !== look);
        resolve(this.heard.splice(at, 1)[0]);
      };
      this.#waiting.push(look);
      look();
    }), type);
  }

  say(message) {
    this.socket.send(JSON.stringify(message));
  }

  /** Answers `connect`; without options as for a client without mutations and rows. */
  async welcome({ user = 'ann', mode = 'snapshot', lastMutation = 0, rejections = [], rows = [], cursor = '1', features = ['keys', 'subscriptions'] } = {}) {
    const connect = await this.next('connect');
    this.say({ type: 'connected', protocol: 1, userId: user, mode, lastMutation, refused: rejections, tables: { note: { key: ['id'] } }, features });
    if (rows.length) this.say({ type: 'snapshot', table: 'note', rows });
    this.say({ type: 'ready', cursor });
    return connect;
  }

  end(closeCode, code, more = {}) {
    this.say({ type: 'error', code, message: 'because', ...more });
    this.socket.close(closeCode);
  }
}

export class ScriptedServer {
  #connections = [];
  #waiting = [];
  #clients = [];

  static async start() {
    const scripted = new ScriptedServer();
    scripted.server = new WebSocketServer({ port: 0, host: '127.0.0.1', handleProtocols: (offered) => offered.has('rowtide.v1') && 'rowtide.v1' });
    scripted.server.on('connection', (socket) => {
      const connection = new ScriptedConnection(socket);
      const taker = scripted.#waiting.shift();
      if (taker) taker(connection);
      else scripted.#connections.push(connection);
    });
    await once(scripted.server, 'listening');
    return scripted;
  }

  get url() {
    return `ws://127.0.0.1:${this.server.address().port}/sync`;
  }

  /** The next connection. */
  accept() {
    const connection = this.#connections.shift();
    return connection ? Promise.resolve(connection) : soon(new Promise((resolve) => this.#waiting.push(resolve)), 'a connection');
  }

  client(options = {}) {
    const client = createClient({ url: this.url, token: () => token('ann'), WebSocket, ...options });
    this.#clients.push(client);
    return client;
  }

  async stop() {
    await Promise.all(this.#clients.map((client) => client.close()));
    for (const socket of this.server.clients) socket.terminate();
    this.server.close();
  }
}
