/**
 * A WebSocket without a network: what one end sends arrives at the other, in order, in microtasks of its own. It has
 * as much of the browser's interface as a client of the protocol uses.
 */

const [CONNECTING, OPEN, CLOSED] = [0, 1, 3];

/** Delivers one thing after the other, and counts what it has delivered. */
export class Wire {
  delivered = 0;
  /** @type {(() => void)[]} */
  #waiting = [];

  /** @param {() => void} delivery */
  deliver(delivery) {
    this.#waiting.push(delivery);
    queueMicrotask(() => {
      this.delivered += 1;
      this.#waiting.shift()?.();
    });
  }
}

/** What the server does with its end of a socket. @typedef {{ hear: (text: any) => void, gone: () => void }} Hears */

/**
 * The class to give to a client as `WebSocket`.
 * @param {Wire} wire
 * @param {(end: { say: (message: object) => void, close: (code: number) => void }) => Hears | undefined} accept what hears a new
 *   connection; nothing if there is no server to reach
 */
export function socketClass(wire, accept) {
  return class TestSocket {
    /** Nothing is deflated, and the client has nothing to load for that. */
    static inMemory = true;
    readyState = CONNECTING;
    /** @type {(() => void) | null} */ onopen = null;
    /** @type {((event: any) => void) | null} */ onmessage = null;
    /** @type {((event: any) => void) | null} */ onclose = null;
    /** @type {((event: any) => void) | null} */ onerror = null;
    binaryType = 'blob';
    bufferedAmount = 0;
    /** @type {Hears | undefined} */
    #server;

    /** @param {string} url @param {string | string[]} [protocol] */
    constructor(url, protocol) {
      this.url = url;
      this.protocol = [protocol].flat()[0] ?? '';
      wire.deliver(() => {
        if (this.readyState !== CONNECTING) return;
        this.#server = accept({
          say: (message) => {
            const data = JSON.stringify(message);
            wire.deliver(() => this.readyState === OPEN && this.onmessage?.({ type: 'message', data }));
          },
          close: (code) => wire.deliver(() => this.#ended(code)),
        });
        if (!this.#server) return this.#ended(1006);
        this.readyState = OPEN;
        this.onopen?.();
      });
    }

    /** @param {any} data */
    send(data) {
      if (this.readyState === CONNECTING) throw new Error('the socket is not open yet');
      if (this.readyState === OPEN) wire.deliver(() => this.#server?.hear(data));
    }

    close() {
      if (this.readyState === CLOSED) return;
      this.readyState = CLOSED;
      wire.deliver(() => {
        this.#leave();
        this.onclose?.({ type: 'close', code: 1005, reason: '', wasClean: true });
      });
    }

    #leave() {
      const server = this.#server;
      this.#server = undefined;
      server?.gone();
    }

    /** @param {number} code */
    #ended(code) {
      if (this.readyState === CLOSED) return;
      this.readyState = CLOSED;
      this.#leave();
      if (code === 1006) this.onerror?.({ type: 'error' });
      this.onclose?.({ type: 'close', code, reason: '', wasClean: code !== 1006 });
    }
  };
}
