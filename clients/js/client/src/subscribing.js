/**
 * Subscriptions of an application: handles that callers share, in every tab. Each tab tells the leading one
 * what it wants, and that one asks the server for what any of them wants. A tab holds a lock as long as it
 * lives, so the leading tab learns when it has gone. The rows and the state of a subscription come to a tab
 * with the same step.
 */
import { RowtideError } from './error.js';
import { same } from './op.js';
import { Observed, promised } from './query.js';
import { Selection, keyOf } from './selection.js';

/** The longest time that a timer takes, in ms. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** @typedef {import('./selection.js').SubscriptionState} SubscriptionState */
/** @typedef {import('./selection.js').Wish} Wish */
/**
 * @typedef {{ wish: Wish, users: number, observed: Observed<SubscriptionState>, ready: Promise<void> }} Shared what the
 *   handles of one query with equal parameters share
 */

/** @type {SubscriptionState} */
const LOADING = { status: 'loading' };

export class Subscriptions {
  #bell;
  #ttl;
  #selection;
  /** The states that this tab shows, of those that are not loading. @type {Map<string, SubscriptionState>} */
  #states = new Map();
  /** @type {Map<string, Shared>} */
  #shared = new Map();
  /** What each tab wants, while this one leads. @type {Map<string, [string, Wish][]>} */
  #wanted = new Map();
  /** Whether the other tabs have not been told of what has changed. */
  #untold = false;
  /** @type {import('./tab.js').Tab | undefined} */
  #tab;
  /** Resolves when this tab holds its lock. @type {Promise<void> | undefined} */
  #lock;
  #announcing = false;
  /** Whether the rows of what this tab uses have not all come yet. */
  waiting;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /**
   * @param {import('./query.js').Bell} bell
   * @param {number} ttl how long a subscription is kept after its last use, in ms
   */
  constructor(bell, ttl) {
    this.#bell = bell;
    this.#ttl = ttl;
    this.#selection = new Selection(ttl);
    this.waiting = new Observed(bell, false);
  }

  /**
   * @param {string} query
   * @param {Record<string, any>} [params]
   */
  subscribe(query, params = {}) {
    const wish = { query, params: JSON.parse(JSON.stringify(params)) };
    const key = keyOf(wish);
    let shared = this.#shared.get(key);
    if (!shared) {
      this.#shared.set(key, (shared = this.#share(key, wish)));
      this.#announce();
    }
    shared.users += 1;
    const { ready, observed: { get, subscribe } } = shared;
    let isUsed = true;
    const unsubscribe = () => {
      if (!isUsed) return;
      isUsed = false;
      shared.users -= 1;
      if (shared.users) return;
      this.#shared.delete(key);
      this.#announce();
    };
    return {
      get,
      subscribe,
      ready,
      unsubscribe,
      get status() {
        return get().status;
      },
      get error() {
        return get().error;
      },
    };
  }

  /**
   * The state of a subscription, whether anybody here uses it or not.
   * @param {string} query
   * @param {Record<string, any>} [params]
   */
  state(query, params = {}) {
    return this.#states.get(keyOf({ query, params: JSON.parse(JSON.stringify(params)) })) ?? LOADING;
  }

  /**
   * @param {string} key
   * @param {Wish} wish
   * @returns {Shared}
   */
  #share(key, wish) {
    const observed = new Observed(this.#bell, this.#states.get(key) ?? LOADING);
    const { promise, resolve, reject } = promised();
    const look = (/** @type {SubscriptionState} */ { status, error }) => {
      if (status === 'ready') resolve();
      if (error) reject(new RowtideError(error.code, error.message));
    };
    look(observed.get());
    observed.subscribe(look);
    return { wish, users: 0, observed, ready: promise };
  }

  /** Works for a tab from now on. @param {import('./tab.js').Tab} tab */
  attach(tab) {
    this.#tab = tab;
    this.#lock = undefined;
    tab.signal.addEventListener('abort', () => clearTimeout(this.#timer));
  }

  /**
   * The `meta` of a stored copy, which this tab goes on with.
   * @param {Record<string, any>} meta
   */
  restore(meta) {
    this.#selection = new Selection(this.#ttl, meta.subscribed, Date.now());
    this.#wanted.clear();
    this.#show(this.#selection.states());
    this.#announce();
    return { ...meta, cursor: meta.cursor ?? meta.subscribed?.cursor };
  }

  /** What is stored with the rows. @param {string | undefined} cursor */
  meta(cursor) {
    return this.#selection.meta(cursor);
  }

  /** The fields of `connect`. @param {string | undefined} cursor */
  hello(cursor) {
    return this.#selection.hello(cursor);
  }

  /** Notes a message of the server, which the rows have taken already. @param {any} message */
  receive(message) {
    this.#selection.receive(message);
    this.#untold ||= message.type !== 'tx' || message.subscribed || message.unsubscribed;
  }

  /** The next message to send on this connection. */
  next() {
    return this.#selection.next(Date.now());
  }

  disconnected() {
    this.#selection.disconnected();
    this.#untold = true;
  }

  /** Shows the states that go with a step of this tab, after its rows. */
  stepped() {
    if (!this.#untold) return;
    this.#untold = false;
    this.#show(this.#selection.states());
    this.#wake();
  }

  /** What the other tabs are told with a step. */
  told() {
    return this.#untold ? [...this.#selection.states()] : undefined;
  }

  /** Shows what the leading tab tells with a step, after its rows. @param {[string, SubscriptionState][] | undefined} told */
  follow(told) {
    if (told) this.#show(new Map(told));
  }

  /** This tab leads from now on. */
  lead() {
    this.#wanted.set(this.#tab?.id ?? '', this.#own());
    this.#want();
  }

  /** The copy is no longer shown. */
  clear() {
    this.#selection = new Selection(this.#ttl);
    this.#show(new Map());
  }

  /** Handles a message of another tab. @param {any} message */
  heard({ type, tab, wanted }) {
    if (type === 'lead') return this.#announce();
    if (type !== 'want' || !this.#tab?.leads) return undefined;
    const { name, signal } = this.#tab;
    if (!this.#wanted.has(tab)) {
      const gone = () => void (this.#wanted.delete(tab), this.#want());
      navigator.locks.request(`${name} ${tab}`, { signal }, gone).catch(() => {});
    }
    this.#wanted.set(tab, wanted);
    return this.#want();
  }

  /** What this tab wants. */
  #own() {
    return [...this.#shared].map(([key, { wish }]) => /** @type {[string, Wish]} */ ([key, wish]));
  }

  #count() {
    this.waiting.set([...this.#shared.values()].some(({ observed }) => observed.get().status === 'loading'));
  }

  /** Tells the leading tab what this one wants, once for all that is asked for at a time. */
  async #announce() {
    queueMicrotask(() => this.#count());
    if (this.#announcing) return;
    this.#announcing = true;
    await undefined;
    const tab = this.#tab;
    const speaks = tab?.shared && !tab.leads && (this.#lock || this.#shared.size);
    // Whoever hears of this tab waits for its lock.
    if (speaks) await (this.#lock ??= this.#hold(tab));
    this.#announcing = false;
    if (!tab || tab !== this.#tab) return;
    if (tab.leads) this.lead();
    else if (speaks) tab.say({ type: 'want', tab: tab.id, wanted: this.#own() });
  }

  /** @param {import('./tab.js').Tab} tab */
  #hold({ name, id, signal }) {
    return /** @type {Promise<void>} */ (new Promise((resolve) => {
      const held = () => {
        resolve();
        return new Promise((gone) => signal.addEventListener('abort', gone));
      };
      navigator.locks.request(`${name} ${id}`, { signal }, held).catch(resolve);
    }));
  }

  /** Asks for what the tabs want together. */
  #want() {
    if (!this.#tab?.leads || this.#tab.closed) return;
    this.#selection.want(new Map([...this.#wanted.values()].flat()), Date.now());
    this.#untold = true;
    this.#tab.step();
  }

  /** Gives up, in time, what nobody wants any more. */
  #wake() {
    clearTimeout(this.#timer);
    const now = Date.now();
    const due = this.#selection.due(now);
    const pump = () => {
      this.#tab?.pump();
      this.#wake();
    };
    if (due < Infinity) this.#timer = setTimeout(pump, Math.min(due - now, LONGEST_TIMER_MS));
  }

  /** @param {Map<string, SubscriptionState>} states */
  #show(states) {
    // A state that is equal to the one before stays the same object.
    for (const [key, state] of states) {
      const before = this.#states.get(key);
      if (before && same(state, before)) states.set(key, before);
    }
    this.#states = states;
    for (const [key, { observed }] of this.#shared) observed.set(states.get(key) ?? LOADING);
    this.#count();
  }
}
