/**
 * What the panel knows of a client beside what it can ask it: the last messages, the last rejections, and the
 * subscriptions, which it reads off the messages. All of it is bounded.
 */

/** How many messages and rejections are kept. */
const MAX_MESSAGES = 200;
const MAX_REJECTIONS = 50;

/**
 * @typedef {{ number: number, direction: 'sent' | 'received', type: string, text: string }} Said
 * @typedef {{ query: string, params: Record<string, any>, state: string }} Known
 */

export class Watch {
  /** The last messages, oldest first. @type {Said[]} */
  messages = [];
  /** The last rejections, oldest first. @type {{ id: string, code?: string, message?: string, ops: readonly any[] }[]} */
  rejections = [];
  /** The subscriptions of the connection, by their ids. @type {Map<number, Known>} */
  subscriptions = new Map();
  #count = 0;
  #ends;

  /**
   * @param {import('../index.js').Client<any, any>} client
   * @param {() => void} changed is called whenever something may look different
   */
  constructor(client, changed) {
    this.client = client;
    const before = client.trace;
    const trace = (/** @type {'sent' | 'received'} */ direction, /** @type {any} */ message) => {
      before?.(direction, message);
      this.hear(direction, message);
      changed();
    };
    client.trace = trace;
    this.#ends = [
      client.status.subscribe(changed),
      client.subscribe(changed),
      client.onAcked((acked) => {
        if (acked.code) this.rejections = [...this.rejections, acked].slice(-MAX_REJECTIONS);
        changed();
      }),
      () => {
        if (client.trace === trace) client.trace = before;
      },
    ];
  }

  end() {
    this.#ends.forEach((end) => end());
  }

  /** @param {'sent' | 'received'} direction @param {any} message */
  hear(direction, message) {
    // A token is for the server alone: what is on a screen may be photographed.
    const text = JSON.stringify(message, (name, value) => (name === 'token' && typeof value === 'string' ? '…' : value), 1);
    this.messages.push({ number: ++this.#count, direction, type: message.type, text });
    if (this.messages.length > MAX_MESSAGES) this.messages.shift();
    const { type, id, query, params = {}, code } = message;
    if (type === 'connect') {
      this.subscriptions.clear();
      for (const one of message.subscriptions ?? []) this.#ask(one.id, one.query, one.params);
    }
    if (type === 'subscribe') this.#ask(id, query, params);
    if (type === 'subscription_error') this.#becomes(id, `refused: ${code}`);
    if (type === 'unsubscribe') this.#becomes(id, 'ending');
    if (type === 'ready') for (const [id, { state }] of this.subscriptions) if (state === 'loading') this.#becomes(id, 'ready');
    for (const id of message.subscribed ?? []) this.#becomes(id, 'ready');
    for (const id of message.unsubscribed ?? []) this.subscriptions.delete(id);
  }

  clear() {
    this.messages = [];
  }

  /** @param {number} id @param {string} query @param {Record<string, any>} [params] */
  #ask(id, query, params = {}) {
    this.subscriptions.set(id, { query, params, state: 'loading' });
  }

  /** @param {number} id @param {string} state */
  #becomes(id, state) {
    const known = this.subscriptions.get(id);
    if (known) known.state = state;
  }
}
