/**
 * Results of queries of one table that are kept change by change. A result is a node that takes what it holds from another
 * node: the rows of a table, those with some values in an index, those that match, in an order, the first of them, how many
 * they are. Equal nodes are one. While a node has users, each step tells it what has changed in the node that it takes from,
 * and it tells on what has changed in itself; so a step reaches only the nodes whose results it changes. A node without users
 * is right until the next step that changes its table, and is forgotten then.
 */
import { subscribed } from './query.js';

/** @typedef {import('./op.js').Row} Row */
/** @typedef {import('./optimistic.js').Change} Change */
/** @typedef {Iterable<[string, Row]>} Entries rows, each with its key */

/** How many nodes without users are remembered, so that what reads the same soon finds it. */
const MAX_IDLE = 10_000;

/** The nodes of a table. */
export class Nodes {
  /** @type {Map<string, Node>} */
  #known = new Map();
  /** Those without users. @type {Set<Node>} */
  #idle = new Set();
  #swept = -1;
  /** What calls the listeners of the step that is taken in. @type {(() => void)[]} */
  calls = [];

  /**
   * @param {import('./query.js').Shown} shown
   * @param {string} name the table's
   */
  constructor(shown, name) {
    this.shown = shown;
    this.name = name;
    this.root = new Root(this);
  }

  get version() {
    return this.shown.version(this.name);
  }

  get table() {
    return this.shown.optimistic.tables.get(this.name);
  }

  /**
   * @template {Node} N
   * @param {string} text the same for equal nodes
   * @param {() => N} make
   * @returns {N}
   */
  node(text, make) {
    if (this.#swept !== this.version || this.#idle.size > MAX_IDLE) this.#sweep();
    let node = this.#known.get(text);
    if (!node) {
      node = make();
      node.text = text;
      this.#known.set(text, node);
      this.#idle.add(node);
    }
    return /** @type {N} */ (node);
  }

  #sweep() {
    for (const node of this.#idle) this.#known.delete(node.text);
    this.#idle.clear();
    this.#swept = this.version;
  }

  /** @param {Node} node that has users now */
  used(node) {
    this.#known.set(node.text, node);
    this.#idle.delete(node);
  }

  /** @param {Node} node that has no users any more */
  unused(node) {
    if (this.#swept !== this.version) this.#sweep();
    if (this.#known.get(node.text) === node) this.#idle.add(node);
  }
}

export class Node {
  text = '';
  #users = 0;
  /** The version of the table whose rows this holds, while it has no users. */
  #version = -1;
  /** Made when there is one: a page has many nodes, and most have none. @type {Set<Node> | undefined} */
  children;
  /** @type {Set<(value: any) => void> | undefined} */
  #listeners;

  /**
   * @param {Nodes} of
   * @param {any} parent the node that this one takes from
   */
  constructor(of, parent) {
    this.of = of;
    this.parent = parent;
  }

  get isCurrent() {
    return this.#users > 0 || this.#version === this.of.version;
  }

  /** Makes sure that this holds what is shown. @returns {this} */
  read() {
    if (this.isCurrent) return this;
    this.parent.read();
    this.load();
    this.#version = this.of.version;
    return this;
  }

  /** Takes everything from the parent. */
  load() {}

  /** Takes what has changed in the parent. @param {Change[]} _changes */
  changed(_changes) {}

  retain() {
    if (!this.#users) {
      this.read();
      this.parent.retain();
      this.parent.attach(this);
      this.of.used(this);
    }
    this.#users += 1;
  }

  release() {
    this.#users -= 1;
    if (this.#users) return;
    this.#version = this.of.version;
    this.parent.detach(this);
    this.parent.release();
    this.of.unused(this);
  }

  /** @param {Node} child */
  attach(child) {
    (this.children ??= new Set()).add(child);
  }

  /** @param {Node} child */
  detach(child) {
    this.children?.delete(child);
  }

  /** @param {any} value what listeners are called with */
  ring(value) {
    const listeners = this.#listeners;
    if (listeners?.size) this.of.calls.push(() => this.of.shown.bell.ring(listeners, value));
  }

  /** @param {(value: any) => void} listener */
  subscribe(listener) {
    this.retain();
    const stop = subscribed((this.#listeners ??= new Set()), listener);
    let isUsed = true;
    return () => {
      if (!isUsed) return;
      isUsed = false;
      stop();
      this.release();
    };
  }
}

/** Rows. */
export class Rows extends Node {
  /** @type {Row[] | undefined} */
  #all;

  /** Those of an order have none: nothing but the first rows is taken from it. @returns {Entries} */
  entries() {
    return [];
  }

  /** How many. */
  get size() {
    return 0;
  }

  /** The same array as long as nothing changes. @returns {Row[]} */
  all() {
    this.read();
    return (this.#all ??= this.list());
  }

  list() {
    return Array.from(this.entries(), ([, row]) => row);
  }

  load() {
    this.#all = undefined;
  }

  /** Tells on what has changed here. @param {Change[]} changes */
  tell(changes) {
    if (!changes.length) return;
    this.#all = undefined;
    for (const child of this.children ?? []) child.changed(changes);
    this.ring(changes);
  }

  changed(/** @type {Change[]} */ changes) {
    this.tell(changes);
  }
}

/** All rows of the table. */
class Root extends Rows {
  #users = 0;
  #version = -1;

  /** @param {Nodes} of */
  constructor(of) {
    super(of, undefined);
    this.name = of.name;
  }

  get isCurrent() {
    return true;
  }

  read() {
    if (this.#version !== this.of.version) this.load();
    this.#version = this.of.version;
    return this;
  }

  entries() {
    return this.of.shown.rows(this.name);
  }

  get size() {
    return this.of.shown.rows(this.name).size;
  }

  retain() {
    if (!this.#users) this.of.shown.keep(this, true);
    this.#users += 1;
  }

  release() {
    this.#users -= 1;
    if (!this.#users) this.of.shown.keep(this, false);
  }

  /** Takes a step in. @param {Change[]} changes @returns {any} */
  changed(changes) {
    /** @type {(() => void)[]} */
    const calls = (this.of.calls = []);
    this.tell(changes);
    return () => calls.forEach((call) => call());
  }
}
