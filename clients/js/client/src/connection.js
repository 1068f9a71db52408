/**
 * A connection that comes back. It connects, passes received messages to its owner and sends the owner's
 * mutations. When the connection ends, it does what the protocol asks for that ending: it waits and
 * connects again, gets another token, takes another client id, or stops with an error that a person must
 * see.
 */
import { RowtideError } from './error.js';
import { claims } from './token.js';

const PROTOCOL = 1;
/** The longest time from the start of a connection to the server's first message, in ms. */
const CONNECT_MS = 30_000;
/** The time between pings, in ms. Browsers do not show the server's own pings to a page. */
const PING_MS = 25_000;
/** The longest time to the answer of a ping, in ms. */
const PONG_MS = 10_000;
/** The first and the longest upper bound of the random wait before the next try, in ms. */
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 30_000;
/** How many mutations may wait for their acknowledgement. */
const WINDOW = 100;
/** A token is renewed this long before it expires, in ms, but not before a fifth of its time is left. */
const RENEW_MS = 60_000;
/** The longest time that a timer takes, in ms. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** The protocol's code for a close code, where no `error` came before it. @type {Record<number, string>} */
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
/** After these the client does not connect again. */
const FINAL = ['bad_request', 'superseded', 'client_too_old'];

/**
 * The wait before the next try, in ms: exponential, with full jitter, so that clients that lose their
 * connections together do not come back together.
 * @param {number} failures in a row
 * @param {number} [atMost] what the server asked for
 */
export function wait(failures, atMost) {
  const ceiling = Math.min(FIRST_WAIT_MS * 2 ** Math.min(failures, 10), LONGEST_WAIT_MS);
  return Math.random() * (atMost ?? ceiling);
}

/**
 * @typedef {'connecting' | 'live' | 'offline' | 'stopped'} ConnectionState
 * @typedef {object} Owner
 * @property {() => object} hello the fields of `connect`
 * @property {(message: any) => void} receive
 * @property {(window: number) => object | undefined} next the next mutation to send; each is returned once
 * @property {(state: ConnectionState, error?: RowtideError) => void} state
 * @property {(user: string) => boolean} isUser whether the token belongs to the owner's user; if not, the
 *   owner ends this connection
 * @property {() => void} otherClientId takes another client id
 *
 * @typedef {object} ConnectionOptions
 * @property {string} url
 * @property {(rejected: boolean) => string | null | Promise<string | null>} token `null`: nobody is signed in;
 *   `rejected`: the last token is of no use
 * @property {any} WebSocket
 * @property {number} [appVersion]
 * @property {(direction: 'sent' | 'received', message: any) => void} [trace]
 */

export class Connection {
  #options;
  #owner;
  /** @type {WebSocket | undefined} */
  #socket;
  /** The timers of this try. */
  #timers = new Set();
  /** The timer that ends the wait for the server's next message. @type {any} */
  #answer;
  #failures = 0;
  /** Whether the server has rejected the last token. */
  #rejected = false;
  /** The number of this try: an answer for an earlier try is ignored. */
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

  /** Connects, or ends the wait before the next try. */
  async start() {
    if (this.#running && !this.#waiting) return;
    this.#running = true;
    this.#waiting = false;
    this.#clear();
    const attempt = ++this.#try;
    this.#owner.state('connecting');
    try {
      // Where the code that inflates cannot be had all comes as text, as it does where there is no network.
      const loading = this.#options.WebSocket.inMemory || import('./inflate.js').catch(() => {});
      const [token, loaded] = await Promise.all([this.#options.token(this.#rejected), loading]);
      if (attempt !== this.#try) return;
      if (this.#owner.isUser(claims(token).sub)) this.#open(token, loaded?.inflate);
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

  /** Sends the mutations that may be sent. */
  pump() {
    for (let next; this.#socket?.readyState === 1 && (next = this.#owner.next(WINDOW)); ) this.#send(next);
  }

  /**
   * @param {string | null} token
   * @param {((socket: WebSocket) => string[] | undefined) | undefined} inflate
   */
  #open(token, inflate) {
    const socket = (this.#socket = new this.#options.WebSocket(this.#options.url, 'rowtide.v1'));
    /** The server's `error`. @type {any} */
    let said = {};
    socket.onopen = () => {
      const { appVersion } = this.#options;
      this.#send({ type: 'connect', protocol: PROTOCOL, token: token ?? undefined, appVersion, accept, ...this.#owner.hello() });
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
      const code = said.code ?? CLOSE_CODES[event.code] ?? 'offline';
      this.#ended(new RowtideError(code, said.message ?? 'disconnected'), said.retryAfterMs);
    };
    const accept = inflate?.(socket);
    this.#expect(CONNECT_MS);
  }

  /** Gives the server so long for its next message. @param {number} ms */
  #expect(ms) {
    this.#answer = setTimeout(() => this.#retry(new RowtideError('offline', 'the server does not answer')), ms);
  }

  /** @param {any} message */
  #receive(message) {
    clearTimeout(this.#answer);
    this.#owner.receive(message);
    if (message.type === 'connected') this.#ping();
    if (message.type === 'ready') {
      this.#failures = 0;
      this.#rejected = false;
      this.#owner.state('live');
    }
    this.pump();
  }

  #ping() {
    this.#after(PING_MS, () => {
      this.#send({ type: 'ping' });
      this.#expect(PONG_MS);
      this.#ping();
    });
  }

  /** Gets another token before this one expires. @param {string | null} token */
  #renew(token) {
    const left = (claims(token).exp ?? Infinity) * 1000 - Date.now();
    if (left > LONGEST_TIMER_MS) return;
    this.#after(Math.max(left - Math.min(RENEW_MS, left / 5), 0), async () => {
      const attempt = this.#try;
      try {
        const next = await this.#options.token(true);
        if (attempt !== this.#try || !this.#owner.isUser(claims(next).sub)) return;
        this.#send({ type: 'auth', token: next });
        // If it is the same token again, another request would not help: the server will end the session.
        if (next !== token) this.#renew(next);
      } catch {
        // The session ends with `unauthorized`, and the next try asks again.
      }
    });
  }

  /**
   * Does what the protocol asks of a client for each ending.
   * @param {RowtideError} error
   * @param {number} [retryAfterMs]
   */
  #ended(error, retryAfterMs) {
    if (FINAL.includes(error.code)) {
      this.stop();
      this.#owner.state('stopped', error);
      return;
    }
    this.#rejected = error.code === 'unauthorized';
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
   */
  #after(ms, then) {
    const timer = setTimeout(() => (this.#timers.delete(timer), then()), ms);
    this.#timers.add(timer);
  }

  #clear() {
    for (const timer of this.#timers.add(this.#answer)) clearTimeout(timer);
    this.#timers.clear();
    const socket = this.#socket;
    this.#socket = undefined;
    if (!socket) return;
    socket.onmessage = socket.onclose = null;
    socket.close();
  }
}
