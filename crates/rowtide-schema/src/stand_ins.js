// What schemas use that is not of the language: done here as far as a schema needs it, or not at all. Nothing of it
// reaches the system.
"use strict";
(() => {
  const nothing = () => undefined;

  /** The parameters of a query. */
  class URLSearchParams {
    #pairs = [];
    constructor(query = "") {
      const decode = (text) => {
        try {
          return decodeURIComponent(text.replaceAll("+", " "));
        } catch {
          return text;
        }
      };
      for (const pair of `${query}`.replace(/^\?/, "").split("&")) {
        if (pair === "") continue;
        const [name, ...value] = pair.split("=");
        this.#pairs.push([decode(name), decode(value.join("="))]);
      }
    }
    append(name, value) {
      this.#pairs.push([`${name}`, `${value}`]);
    }
    delete(name) {
      this.#pairs = this.#pairs.filter(([own]) => own !== name);
    }
    get(name) {
      return this.#pairs.find(([own]) => own === name)?.[1] ?? null;
    }
    getAll(name) {
      return this.#pairs.filter(([own]) => own === name).map(([, value]) => value);
    }
    has(name) {
      return this.#pairs.some(([own]) => own === name);
    }
    set(name, value) {
      const at = this.#pairs.findIndex(([own]) => own === name);
      if (at < 0) return this.append(name, value);
      this.#pairs[at][1] = `${value}`;
      this.#pairs = this.#pairs.filter(([own], place) => own !== name || place === at);
    }
    entries() {
      return this.#pairs[Symbol.iterator]();
    }
    keys() {
      return this.#pairs.map(([name]) => name)[Symbol.iterator]();
    }
    values() {
      return this.#pairs.map(([, value]) => value)[Symbol.iterator]();
    }
    [Symbol.iterator]() {
      return this.entries();
    }
    toString() {
      return this.#pairs.map((pair) => pair.map(encodeURIComponent).join("=")).join("&");
    }
  }

  /** An address in its parts. Names of hosts are not looked at. */
  class URL {
    constructor(text, base) {
      // As browsers do, so that nothing looks like another scheme to them.
      const clean = `${text}`.replace(/^[\0- ]+|[\0- ]+$/g, "").replace(/[\t\n\r]/g, "");
      const parts = /^([a-z][a-z0-9+.-]*:)(?:\/\/([^/?#]*))?([^?#]*)(\?[^#]*)?(#.*)?$/is.exec(clean);
      if (parts === null) {
        if (base === undefined) throw new TypeError("Invalid URL");
        const from = new URL(base);
        const path = clean.startsWith("/") ? clean : `${from.pathname.replace(/[^/]*$/, "")}${clean}`;
        return new URL(`${from.origin}${path}`);
      }
      const [, protocol, authority, path, query = "", hash = ""] = parts;
      const [userinfo, host] = /^(?:(.*)@)?(.*)$/s.exec(authority ?? "").slice(1);
      this.protocol = protocol.toLowerCase();
      const special = ["http:", "https:", "ws:", "wss:", "ftp:"].includes(this.protocol);
      if (special && (host === "" || /[\s<>^|\\]/.test(host))) throw new TypeError("Invalid URL");
      [this.username, this.password] = [...(userinfo ?? "").split(":"), "", ""];
      this.host = special ? host.toLowerCase() : host;
      [, this.hostname, this.port] = /^(.*?)(?::(\d*))?$/s.exec(this.host).map((part) => part ?? "");
      this.pathname = special && path === "" ? "/" : path;
      this.hash = hash === "#" ? "" : hash;
      this.origin = special ? `${this.protocol}//${this.host}` : "null";
      this.searchParams = new URLSearchParams(query);
      this.#start = `${this.protocol}${authority === undefined ? "" : `//${userinfo === undefined ? "" : `${userinfo}@`}${this.host}`}`;
    }
    #start;
    get search() {
      const query = this.searchParams.toString();
      return query === "" ? "" : `?${query}`;
    }
    get href() {
      return `${this.#start}${this.pathname}${this.search}${this.hash}`;
    }
    toString() {
      return this.href;
    }
    toJSON() {
      return this.href;
    }
  }

  const { parse, stringify } = JSON;
  const console = {};
  for (const name of ["log", "info", "warn", "error", "debug", "trace"]) console[name] = nothing;
  const crypto = {
    // For ids, which need be no secret.
    getRandomValues(array) {
      for (let at = 0; at < array.length; at++) array[at] = Math.random() * 2 ** 32;
      return array;
    },
  };
  const standIns = {
    URL,
    URLSearchParams,
    console,
    crypto,
    structuredClone: (value) => (value === undefined ? undefined : parse(stringify(value))),
    performance: { now: () => 0 },
    queueMicrotask: nothing,
    setTimeout: () => 0,
    setInterval: () => 0,
    clearTimeout: nothing,
    clearInterval: nothing,
    requestAnimationFrame: () => 0,
    cancelAnimationFrame: nothing,
  };
  for (const name in standIns) {
    if (globalThis[name] === undefined) globalThis[name] = standIns[name];
  }
})()
