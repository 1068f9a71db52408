/**
 * What a client has subscribed to. It knows which subscriptions the replica holds the rows of, as of its
 * cursor: these are stored in one write with the rows and the cursor, and `connect` names exactly these
 * with the cursor. What is wanted beyond that is asked for once the replica is up to date, and what nobody
 * has wanted for a while is given up. A state machine without I/O or clock: messages, wishes and times go
 * in, messages to send and states come out.
 */
import { bytesOf } from './op.js';

/** How much of a first message subscriptions may take, in bytes: beside a token it has room for no more. */
const CONNECT_BYTES = 16_384;
const UNSUPPORTED = { code: 'unsupported', message: 'the server has no subscriptions' };

/**
 * @typedef {{ status: 'loading' | 'ready' | 'refused', error?: { code: string, message: string } }} SubscriptionState
 *   `ready`: the rows are there
 * @typedef {{ query: string, params: Record<string, any> }} Wish
 * @typedef {'idle' | 'asked' | 'crowded' | 'refused' | 'leaving'} Phase what this connection knows of a subscription;
 *   `crowded`: it is asked for again once another one has left
 * @typedef {{ id: number, key: string, wish: Wish, held: boolean, phase: Phase, until?: number,
 *   error?: { code: string, message: string } }} Subscription `held`: the replica has its rows, as of its cursor;
 *   `until`: nobody wants it, and it is given up then, in ms
 * @typedef {{ cursor: string, of: [number, string, Record<string, any>][] }} StoredSelection
 */

/** The key of a wish: the same for equal parameters in any order. @param {Wish} wish */
export function keyOf({ query, params }) {
  return JSON.stringify([query, Object.entries(params).sort(([a], [b]) => (a < b ? -1 : 1))]);
}

export class Selection {
  #ttl;
  #last = 0;
  /** In the order of their ids, which are never in use twice. @type {Map<number, Subscription>} */
  #all = new Map();
  /** The one that is not on its way out, of each key. @type {Map<string, Subscription>} */
  #current = new Map();
  /** @type {Map<string, Wish>} */
  #wanted = new Map();
  /** Those that this `connect` has named, and that the server has not refused: held as of `ready`. @type {Set<number>} */
  #named = new Set();
  /** Whether this connection is ready. */
  #live = false;
  /** Whether this connection's server knows subscriptions. */
  #able = true;
  /** Whether this connection sends all rows. */
  #anew = false;
  /** Whether rows were left behind that no subscription keeps any more: only a snapshot removes them. */
  #spoiled = false;

  /**
   * @param {number} ttl how long a subscription that nobody wants is kept, in ms
   * @param {StoredSelection} [stored] of the replica
   * @param {number} [now] in ms: what was stored is kept at least so long
   */
  constructor(ttl, stored, now = 0) {
    this.#ttl = ttl;
    for (const [id, query, params] of stored?.of ?? []) {
      const held = this.#add(id, keyOf({ query, params }), { query, params });
      Object.assign(held, { held: true, until: now + ttl });
    }
    this.#settle();
  }

  /** The state of each that is not loading, by key. @returns {Map<string, SubscriptionState>} */
  states() {
    const states = new Map();
    for (const [key, { held, error: refusal }] of this.#current) {
      const error = this.#able ? refusal : UNSUPPORTED;
      if (error) states.set(key, { status: 'refused', error });
      else if (held) states.set(key, { status: 'ready' });
    }
    return states;
  }

  /**
   * What goes into the storage with the rows.
   * @param {string | undefined} cursor of the rows
   * @returns {{ cursor?: string, subscribed?: StoredSelection }} a client that does not know subscriptions
   *   finds no cursor beside rows of subscriptions, and so begins with a snapshot
   */
  meta(cursor) {
    const of = this.#held().map(({ id, wish }) => /** @type {[number, string, any]} */ ([id, wish.query, wish.params]));
    if (this.#spoiled || cursor === undefined) return { cursor: undefined };
    return of.length ? { cursor: undefined, subscribed: { cursor, of } } : { cursor };
  }

  /**
   * The fields of `connect`.
   * @param {string | undefined} cursor of the rows
   */
  hello(cursor) {
    let from = this.#spoiled ? undefined : cursor;
    let named = from === undefined ? [...this.#current.values()] : this.#held();
    const fields = () => named.map(({ id, wish }) => ({ id, ...wish }));
    if (bytesOf(JSON.stringify(fields())) > CONNECT_BYTES) [from, named] = [undefined, []];
    this.#named = new Set(named.map(({ id }) => id));
    return { cursor: from, subscriptions: named.length ? fields() : undefined };
  }

  /**
   * Notes what is wanted now.
   * @param {Map<string, Wish>} wanted by key
   * @param {number} now in ms
   */
  want(wanted, now) {
    this.#wanted = wanted;
    for (const [key, subscription] of this.#current) {
      if (wanted.has(key)) subscription.until = undefined;
      else subscription.until ??= now + this.#ttl;
    }
    this.#settle();
  }

  /**
   * Notes what the server says. The replica has applied the message.
   * @param {any} message
   */
  receive(message) {
    const { type, id } = message;
    if (type === 'connected') {
      this.#able = !!message.features?.includes('subscriptions');
      this.#anew = message.mode === 'snapshot';
      // Of what such a server does not know it tells no changes either.
      if (!this.#able && !this.#anew && this.#held().length) this.#spoiled = true;
      if (!this.#able) this.#named.clear();
    } else if (type === 'ready') {
      for (const subscription of this.#all.values()) {
        subscription.held = this.#named.has(subscription.id);
        if (subscription.held) subscription.error = undefined;
      }
      if (this.#anew) this.#spoiled = false;
      this.#live = true;
    } else if (type === 'tx') {
      for (const id of message.subscribed ?? []) {
        const subscription = this.#all.get(id);
        if (!subscription) continue;
        subscription.held = true;
        subscription.error = undefined;
        if (subscription.phase === 'asked') subscription.phase = 'idle';
      }
      for (const id of message.unsubscribed ?? []) this.#forget(this.#all.get(id));
      if (message.unsubscribed) {
        for (const subscription of this.#all.values()) if (subscription.phase === 'crowded') subscription.phase = 'idle';
      }
    } else if (type === 'subscription_error') {
      this.#named.delete(id);
      const subscription = this.#all.get(id);
      if (subscription) this.#refused(subscription, message);
    }
    this.#settle();
  }

  /**
   * The next message to send on this connection.
   * @param {number} now in ms
   */
  next(now) {
    if (!this.#live || !this.#able) return undefined;
    const all = [...this.#all.values()];
    for (const subscription of all) {
      const { id, key, held, phase, until = Infinity } = subscription;
      if (phase === 'leaving' || (this.#current.get(key) === subscription && until > now)) continue;
      if (held || phase === 'asked') {
        subscription.phase = 'leaving';
        this.#free(subscription);
        return { type: 'unsubscribe', id };
      }
      this.#forget(subscription);
    }
    // Nobody is on the way out any more for whom it could wait.
    const waits = all.some(({ phase }) => phase === 'leaving');
    const next = [...this.#all.values()].find(({ held, phase, error }) => !held && (phase === 'idle' || (phase === 'crowded' && !waits && !error)));
    if (!next) return undefined;
    next.phase = 'asked';
    return { type: 'subscribe', id: next.id, ...next.wish };
  }

  /**
   * When the next one is to be given up, in ms; `Infinity` if none is.
   * @param {number} now in ms
   */
  due(now) {
    const untils = [...this.#current.values()].map(({ until = Infinity }) => until);
    return Math.min(...untils.filter((until) => until > now), Infinity);
  }

  /** The connection has ended. */
  disconnected() {
    this.#live = false;
    this.#named.clear();
    for (const subscription of this.#all.values()) {
      const { key, held } = subscription;
      subscription.phase = 'idle';
      const current = this.#current.get(key);
      if (current === subscription) continue;
      // The next connection knows nothing of this one's wishes, so what is held may go on where it was to leave.
      if (held && !current?.held) {
        if (current) {
          this.#forget(current);
          subscription.until = current.until;
        }
        this.#current.set(key, subscription);
      } else if (!held) this.#forget(subscription);
    }
    this.#settle();
  }

  #held() {
    return [...this.#all.values()].filter(({ held }) => held);
  }

  /**
   * @param {number} id
   * @param {string} key
   * @param {Wish} wish
   */
  #add(id, key, wish) {
    /** @type {Subscription} */
    const subscription = { id, key, wish, held: false, phase: 'idle' };
    this.#last = Math.max(this.#last, id);
    this.#all.set(id, subscription);
    if (!this.#current.has(key)) this.#current.set(key, subscription);
    return subscription;
  }

  /** Asks for what is wanted and not there, and lets go of what is refused and not wanted. */
  #settle() {
    for (const [key, wish] of this.#wanted) if (!this.#current.has(key)) this.#add(this.#last + 1, key, wish);
    for (const subscription of this.#current.values()) {
      const { id, error, held, phase, until } = subscription;
      // What the server is asked for again may come to be.
      const open = held || phase === 'asked' || this.#named.has(id);
      if (error && !open && until !== undefined) this.#forget(subscription);
    }
  }

  /**
   * @param {Subscription} subscription
   * @param {{ code: string, message: string }} error
   */
  #refused(subscription, { code, message }) {
    if (subscription.phase === 'leaving') {
      if (!subscription.held) this.#forget(subscription);
      return;
    }
    const unused = [...this.#current.values()].filter(({ until }) => until !== undefined);
    subscription.phase = code === 'too_many' ? 'crowded' : 'refused';
    // What nobody uses makes room for what somebody wants.
    if (code === 'too_many' && unused.length) for (const one of unused) one.until = -Infinity;
    else subscription.error = { code, message };
  }

  /** @param {Subscription} subscription */
  #free(subscription) {
    if (this.#current.get(subscription.key) === subscription) this.#current.delete(subscription.key);
  }

  /** @param {Subscription | undefined} subscription */
  #forget(subscription) {
    if (!subscription) return;
    this.#all.delete(subscription.id);
    this.#free(subscription);
  }
}
