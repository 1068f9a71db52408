/**
 * The server's end of one connection: what docs/protocol.md says of each message. A session knows which rows its
 * client holds, and after each commit sends the difference to what it should hold. What outlives a connection (the
 * numbers of a client, its cursors) the server keeps.
 */
import { RowtideError } from '../error.js';
import { claims } from '../token.js';
import { changesOf } from './selecting.js';

/** The most subscriptions of a session. */
const MAX_SUBSCRIPTIONS = 100;

/** The close code of each ending. @type {Record<string, number>} */
export const ENDINGS = {
  bad_request: 4400,
  unauthorized: 4401,
  forbidden: 4403,
  timeout: 4408,
  slow_consumer: 4409,
  superseded: 4410,
  client_too_old: 4426,
  rate_limit_exceeded: 4429,
  restarting: 1012,
  unavailable: 4503,
};

/**
 * @typedef {import('./database.js').Auth} Auth
 * @typedef {import('./selecting.js').Held} Held
 * @typedef {import('./selecting.js').Wish} Wish
 * @typedef {{ ack?: number, keys?: object[], subscribed?: number[], unsubscribed?: number[] }} More
 * @typedef {{ say: (message: object) => void, close: (code: number) => void }} End
 */

/** The end of a session. */
class Ending extends RowtideError {}

/** @param {string} code @param {string} message @returns {never} */
function end(code, message) {
  throw new Ending(code, message);
}

export class Session {
  #server;
  #end;
  clientId = '';
  /** Who is here, once `connect` was accepted. @type {Auth | undefined} */
  auth;
  /** What the client holds. @type {Held} */
  #held = new Map();
  /** @type {Map<number, Wish>} */
  #subscriptions = new Map();

  /**
   * @param {import('./server.js').TestServer} server
   * @param {End} end
   */
  constructor(server, end) {
    this.#server = server;
    this.#end = end;
  }

  /** @param {any} text a frame */
  hear(text) {
    try {
      const message = parsed(text);
      if (!this.auth) {
        if (message.type !== 'connect') end('bad_request', '`connect` comes first');
        this.#connect(message);
      } else this.#message(message, this.auth);
    } catch (error) {
      if (!(error instanceof Ending)) return this.#server.mistaken(error);
      this.end(error.code, error.message);
    }
  }

  gone() {
    this.#server.left(this);
  }

  /** @param {string} code @param {string} message */
  end(code, message) {
    this.#end.say({ type: 'error', code, message });
    this.cut(ENDINGS[code]);
  }

  /** To be thrown while a message is heard: the session ends with it. @param {string} code @param {string} message */
  refuse(code, message) {
    return new Ending(code, message);
  }

  /** Ends the connection without a word. @param {number} closeCode */
  cut(closeCode) {
    this.gone();
    this.#end.close(closeCode);
  }

  /** @param {any} message @param {Auth} auth */
  #message(message, auth) {
    switch (message.type) {
      case 'mutate':
        return this.#server.mutate(this, auth, message);
      case 'subscribe':
        return this.#subscribe(message);
      case 'unsubscribe':
        return this.#unsubscribe(message);
      case 'ping':
        return this.#end.say({ type: 'pong' });
      case 'auth':
        return this.#renew(message.token, auth);
      default:
        return end('bad_request', `there is no message \`${message.type}\` of a client`);
    }
  }

  /** @param {any} connect */
  #connect({ protocol, clientId, token, cursor, settled = 0, acked = 0, subscriptions = [] }) {
    if (protocol !== 1) end('bad_request', 'this server speaks version 1 of the protocol');
    if (!/^[A-Za-z0-9_-]{8,64}$/.test(clientId)) end('bad_request', 'a `clientId` has 8 to 64 of A-Z a-z 0-9 _ -');
    const auth = this.#authOf(token);
    const client = this.#server.clientOf(this, clientId, auth, Math.max(settled, acked));
    this.clientId = clientId;
    this.auth = auth;
    const refused = this.#resubscribe(subscriptions);
    const from = refused.length ? undefined : this.#server.heldAt(cursor, auth);
    const after = (/** @type {{ id: number }} */ { id }) => id > settled;
    const keys = client.keys.filter(after);
    this.#end.say({
      type: 'connected',
      protocol: 1,
      userId: auth.userId,
      mode: from ? 'resume' : 'snapshot',
      lastMutation: client.last,
      refused: client.rejections.filter(after),
      ...(keys.length && { keys }),
      tables: this.#server.tables,
      features: ['calls', 'keys', 'subscriptions'],
    });
    refused.forEach((message) => this.#end.say(message));
    this.#held = from ?? new Map();
    const changes = this.#advance();
    if (from && changes.length) this.#end.say({ type: 'tx', cursor: this.#cursor(), changes });
    if (!from) {
      for (const table of Object.keys(this.#server.tables)) {
        const rows = [...this.#held.values()].filter((one) => one.table === table).map(({ row }) => row);
        if (rows.length) this.#end.say({ type: 'snapshot', table, rows });
      }
    }
    this.#end.say({ type: 'ready', cursor: this.#cursor() });
  }

  /** @param {any} token @returns {Auth} */
  #authOf(token) {
    if (token === undefined || token === null) {
      return this.#server.anonymous ? { userId: null, claims: {} } : end('unauthorized', 'there is no token');
    }
    let said;
    try {
      said = claims(token);
    } catch (error) {
      return end('unauthorized', /** @type {Error} */ (error).message);
    }
    if (!said.exp || said.exp * 1000 <= Date.now()) end('unauthorized', 'the token has expired');
    const { sub, exp, ...rest } = said;
    return { userId: sub, claims: rest };
  }

  /** @param {any} token @param {Auth} before */
  #renew(token, before) {
    const auth = this.#authOf(token);
    if (auth.userId !== before.userId) end('unauthorized', 'the token is of another user');
    if (JSON.stringify(auth.claims) !== JSON.stringify(before.claims)) end('restarting', 'the claims are others');
  }

  /** Takes the subscriptions of `connect`. @param {any[]} subscriptions @returns {object[]} what is said of those that are refused */
  #resubscribe(subscriptions) {
    const refused = [];
    for (const { id, query, params } of subscriptions) {
      const refusal = this.#refusal({ query, params });
      if (refusal) refused.push({ type: 'subscription_error', id, ...refusal });
      else this.#subscriptions.set(id, { query, params });
    }
    return refused;
  }

  /** @param {Wish} wish */
  #refusal(wish) {
    const fault = this.#server.selecting.fault(wish);
    if (fault) return { code: 'bad_request', message: fault };
    const isFull = this.#subscriptions.size >= MAX_SUBSCRIPTIONS;
    return isFull ? { code: 'too_many', message: `a session has at most ${MAX_SUBSCRIPTIONS} subscriptions` } : undefined;
  }

  /** @param {any} message */
  #subscribe({ id, query, params }) {
    if (!Number.isInteger(id) || id < 1 || this.#subscriptions.has(id)) end('bad_request', `the subscription ${id} is in use`);
    const refusal = this.#refusal({ query, params });
    if (refusal) return this.#end.say({ type: 'subscription_error', id, ...refusal });
    this.#subscriptions.set(id, { query, params });
    return this.step({ subscribed: [id] });
  }

  /** @param {any} message */
  #unsubscribe({ id }) {
    if (this.#subscriptions.delete(id)) return this.step({ unsubscribed: [id] });
    return this.#end.say({ type: 'subscription_error', id, code: 'bad_request', message: 'there is no such subscription' });
  }

  /** @param {{ id: number, code: string, message: string }} rejection */
  reject(rejection) {
    this.#end.say({ type: 'reject', ...rejection });
  }

  /** Brings the client to where the database is. Nothing is sent where there is nothing to say. @param {More} [more] */
  step(more) {
    const changes = this.#advance();
    if (changes.length || more) this.#end.say({ type: 'tx', cursor: this.#cursor(), changes, ...more });
  }

  #advance() {
    const before = this.#held;
    const auth = /** @type {Auth} */ (this.auth);
    this.#held = this.#server.held(auth, this.#subscriptions.values()) ?? before;
    return changesOf(this.#server.definition.tables, before, this.#held);
  }

  #cursor() {
    return this.#server.cursorOf(/** @type {Auth} */ (this.auth), this.#held);
  }
}

/** @param {any} text @returns {any} */
function parsed(text) {
  try {
    const message = JSON.parse(text);
    if (typeof message?.type === 'string') return message;
  } catch {
    // The same as JSON that is no message.
  }
  return end('bad_request', 'a message is a JSON object with a `type`');
}
