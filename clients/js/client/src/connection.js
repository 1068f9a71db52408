/**
 * A connection that lasts. It connects, hands on what comes and sends what may be sent; when the
 * connection ends it does what the protocol asks for that ending: waits and comes back, gets another
 * token, takes another client id, or stops with an error that a person must see.
 */
import { RowtideError } from './error.js';
import { claims } from './token.js';

const PROTOCOL = 1;
/** How long a connection may take until the server's first answer, in ms. */
const CONNECT_MS = 30_000;
/** How often the server is asked whether it is there, in ms: browsers do not show its own pings. */
const PING_MS = 25_000;
/** How long it may take to answer, in ms. */
const PONG_MS = 10_000;
/** The shortest and the longest ceiling of a wait before the next try, in ms. */
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 30_000;
/** How many mutations may be under way. */
const WINDOW = 100;
/** A token is renewed this long before it expires, in ms, or when a fifth of its time is left. */
const RENEW_MS = 60_000;
/** The longest time that a timer can be set to, in ms. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** What a close code says where no `error` came before it. @type {Record<number, string>} */
const CLOSE_CODES = {
  4400: 'bad_request',
  4401: 'unauthorized',
  4403: 'forbidden',
  4408: 'timeout',
  4409: 'slow_consumer',
  4410: 'superseded',
  4426: 'client_too_old',
  4429: 'rate_limit_exceeded',
  4503: 'unavailable',
  1012: 'restarting',
};
/** No retry mends these. */
const FINAL = ['bad_request', 'superseded', 'client_too_old'];

/**
 * The wait before the next try, in ms: exponential, with full jitter, so that clients which were cut
 * off together do not come back together.
 * @param {number} failures in a row
 * @param {number} [atMost] what the server asked for
 */
export function wait(failures, atMost) {
  const ceiling = Math.min(FIRST_WAIT_MS * 2 ** Math.min(failures, 10), LONGEST_WAIT_MS);
  return Math.random() * (atMost ?? ceiling);
}

/**
 * @typedef {'connecting' | 'live' | 'offline' | 'stopped'} State
 * @typedef {object} Owner
 * @property {() => object} hello the fields of `connect`
 * @property {(message: any) => void} receive
 * @property {(window: number) => object | undefined} next what may be sent, once
 * @property {(state: State, error?: RowtideError) => void} state
 * @property {(user: string) => boolean} isUser whether the token is of the right user; if not, the owner
 *   ends this connection
 * @property {() => void} otherClientId
 *
 * @typedef {object} ConnectionOptions
 * @property {string} url
 * @property {(why: { refused: boolean }) => string | Promise<string>} token
 * @property {any} WebSocket
 * @property {number} [appVersion]
 * @property {(direction: 'sent' | 'received', message: any) => void} [trace]
 */

export class Connection {
  #options;
  #owner;
  /** @type {WebSocket | undefined} */
  #socket;
  /** Cancels what this try has set up. */
  #timers = new Set();
  #failures = 0;
  #refused = false;
  /** Grows with every try: what belongs to a former one counts no more. */
  #try = 0;
  #running = false;
  #waiting = false;

  /**
   * @param {ConnectionOptions} options
   * @param {Owner} owner
   */
  constructor(options, owner) {
    this.#options = options;
    this.#owner = owner;
  }

  /** Connects, or does so without waiting any longer. */
  async start() {
    if (this.#running && !this.#waiting) return;
    this.#running = true;
    this.#waiting = false;
    this.#clear();
    const attempt = ++this.#try;
    this.#owner.state('connecting');
    try {
      const token = await this.#options.token({ refused: this.#refused });
      if (attempt !== this.#try) return;
      if (this.#owner.isUser(claims(token).sub)) this.#open(token);
    } catch (error) {
      if (attempt === this.#try) this.#retry(new RowtideError('token', `${error}`));
    }
  }

  /** Ends the connection until `start`. */
  stop() {
    this.#clear();
    this.#try++;
    this.#running = this.#waiting = false;
  }

  /** Sends what may be sent. */
  pump() {
    if (this.#socket?.readyState !== 1) return;
    for (let next = this.#owner.next(WINDOW); next; next = this.#owner.next(WINDOW)) this.#send(next);
  }

  /** @param {string} token */
  #open(token) {
    const socket = (this.#socket = new this.#options.WebSocket(this.#options.url, 'rowtide.v1'));
    /** @type {any} */
    let said;
    socket.onopen = () => {
      const { appVersion } = this.#options;
      this.#send({ type: 'connect', protocol: PROTOCOL, token, appVersion, ...this.#owner.hello() });
      this.#renew(token);
    };
    socket.onmessage = (/** @type {MessageEvent} */ event) => {
      if (socket !== this.#socket) return;
      try {
        const message = JSON.parse(event.data);
        this.#options.trace?.('received', message);
        if (message.type === 'error') said = message;
        else this.#receive(message);
      } catch (error) {
        this.#retry(new RowtideError('protocol', `${error}`));
      }
    };
    socket.onerror = () => {};
    socket.onclose = (/** @type {CloseEvent} */ event) => {
      if (socket !== this.#socket) return;
      const code = said?.code ?? CLOSE_CODES[event.code] ?? 'offline';
      this.#ended(new RowtideError(code, said?.message ?? 'the connection ended'), said?.retryAfterMs);
    };
    this.#after(CONNECT_MS, () => this.#retry(new RowtideError('offline', 'the server does not answer')), 'answer');
  }

  /** @param {any} message */
  #receive(message) {
    this.#cancel('answer');
    this.#owner.receive(message);
    if (message.type === 'connected') this.#ping();
    if (message.type === 'ready') {
      this.#failures = 0;
      this.#refused = false;
      this.#owner.state('live');
    }
    this.pump();
  }

  #ping() {
    this.#after(PING_MS, () => {
      this.#send({ type: 'ping' });
      this.#after(PONG_MS, () => this.#retry(new RowtideError('offline', 'the server has fallen silent')), 'answer');
      this.#ping();
    });
  }

  /** Gets another token before this one expires. @param {string} token */
  #renew(token) {
    const left = (claims(token).exp ?? Infinity) * 1000 - Date.now();
    if (left > LONGEST_TIMER_MS) return;
    this.#after(Math.max(left - Math.min(RENEW_MS, left / 5), 0), async () => {
      const attempt = this.#try;
      try {
        const next = await this.#options.token({ refused: true });
        if (attempt !== this.#try || !this.#owner.isUser(claims(next).sub)) return;
        this.#send({ type: 'auth', token: next });
        // The same again is no reason to ask without end: the server will say that it has expired.
        if (next !== token) this.#renew(next);
      } catch {
        // The session ends with `unauthorized`, and the next try asks again.
      }
    });
  }

  /**
   * What the protocol asks of a client for each ending.
   * @param {RowtideError} error
   * @param {number} [retryAfterMs]
   */
  #ended(error, retryAfterMs) {
    if (FINAL.includes(error.code)) {
      this.stop();
      this.#owner.state('stopped', error);
      return;
    }
    this.#refused = error.code === 'unauthorized';
    if (error.code === 'forbidden') this.#owner.otherClientId();
    this.#retry(error, retryAfterMs);
  }

  /**
   * @param {RowtideError} error
   * @param {number} [retryAfterMs]
   */
  #retry(error, retryAfterMs) {
    this.#clear();
    this.#waiting = true;
    this.#owner.state('offline', error);
    this.#after(wait(this.#failures++, retryAfterMs), () => this.start());
  }

  /** @param {object} message */
  #send(message) {
    if (this.#socket?.readyState !== 1) return;
    this.#options.trace?.('sent', message);
    this.#socket.send(JSON.stringify(message));
  }

  /**
   * @param {number} ms
   * @param {() => void} then
   * @param {string} [name]
   */
  #after(ms, then, name) {
    const timer = { name, id: setTimeout(() => (this.#timers.delete(timer), then()), ms) };
    this.#timers.add(timer);
  }

  /** @param {string} name */
  #cancel(name) {
    for (const timer of this.#timers) {
      if (timer.name !== name) continue;
      clearTimeout(timer.id);
      this.#timers.delete(timer);
    }
  }

  #clear() {
    for (const timer of this.#timers) clearTimeout(timer.id);
    this.#timers.clear();
    const socket = this.#socket;
    this.#socket = undefined;
    if (!socket) return;
    socket.onmessage = socket.onclose = null;
    socket.close();
  }
}
