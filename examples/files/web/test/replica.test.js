// The copy of a document against a small model of the server's rules: clients that change, lose what is on its way,
// come back, and may do more or less than before, in any order. Whatever happens, all end with what the server has.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { load } from './load.js';

const { after, composed, difference, isEqual } = await load('diff');
const { Replica, frames } = await load('replica');

/** Numbers from 0 to 1 that follow from a seed. */
function numbers(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

const clone = (value) => (value === undefined ? undefined : JSON.parse(JSON.stringify(value)));
const same = (one, other) => isEqual(one, other);

/** Lays a diff over a value in place; what of it had an effect. Written anew, not to make one mistake twice. */
function lay(diff, value) {
  const had = {};
  for (const [key, op] of Object.entries(diff)) {
    const isThere = Object.hasOwn(value, key);
    if (op[0] === 'delete' && isThere) delete value[key];
    else if (op[0] === 'put' && !(isThere && same(value[key], op[1]))) value[key] = clone(op[1]);
    else if (op[0] === 'append' && Array.isArray(value[key]) && value[key].length === op[2]) value[key].push(...clone(op[1]));
    else if (op[0] === 'patch' && isThere && typeof value[key] === 'object') {
      const inner = lay(op[1], value[key]);
      if (Object.keys(inner).length > 0) had[key] = ['patch', inner];
      continue;
    } else continue;
    had[key] = op;
  }
  return had;
}

class ModelServer {
  clock = 0;
  historyStart = 0;
  records = new Map([['page:page', { state: { id: 'page:page', typeName: 'page' }, at: 0 }]]);
  removed = new Map();
  sessions = new Map();

  connect(session, message, { isReadonly, send }) {
    const seen = message.lastServerClock;
    const isKnown = seen >= this.historyStart && seen <= this.clock;
    const diff = {};
    for (const [id, { state, at }] of this.records) if (!isKnown || at > seen) diff[id] = ['put', state];
    if (isKnown) for (const [id, at] of this.removed) if (at > seen) diff[id] = ['remove'];
    for (const [other, { presence }] of this.sessions) {
      if (other !== session && presence) diff[`instance_presence:${other}`] = ['put', presence];
    }
    this.sessions.set(session, { isReadonly, send, presence: null });
    send({
      type: 'connect', connectRequestId: message.connectRequestId, hydrationType: isKnown ? 'wipe_presence' : 'wipe_all',
      serverClock: this.clock, diff, isReadonly,
    });
  }

  leave(session) {
    if (this.sessions.get(session)?.presence) this.tell(session, { [`instance_presence:${session}`]: ['remove'] });
    this.sessions.delete(session);
  }

  tell(but, diff) {
    const data = [{ type: 'patch', diff, serverClock: this.clock }];
    for (const [session, { send }] of this.sessions) if (session !== but) send({ type: 'data', data });
  }

  push(session, { clientClock, diff, presence }) {
    const own = this.sessions.get(session);
    const had = {};
    let isExact = true;
    for (const [id, op] of Object.entries((!own.isReadonly && diff) || {})) {
      const record = this.records.get(id);
      const state = record && clone(record.state);
      let effect = null;
      if (op[0] === 'put' && !record) effect = op;
      else if (op[0] === 'put') {
        isExact = false;
        if (!same(state, op[1])) effect = ['put', op[1]];
      } else if (op[0] === 'patch' && record) {
        const inner = lay(op[1], state);
        if (Object.keys(inner).length > 0) effect = ['patch', inner];
        if (!same(inner, op[1])) isExact = false;
      } else if (op[0] === 'remove' && record) effect = op;
      if (!effect) {
        isExact = false;
        continue;
      }
      had[id] = effect;
      if (effect[0] === 'remove') {
        this.records.delete(id);
        this.removed.set(id, this.clock + 1);
      } else {
        this.records.set(id, { state: effect[0] === 'put' ? clone(op[1]) : state, at: this.clock + 1 });
        this.removed.delete(id);
      }
    }
    const isChanged = Object.keys(had).length > 0;
    if (isChanged) this.clock += 1;
    const action = !diff ? 'commit' : !isChanged ? 'discard' : isExact ? 'commit' : { rebaseWithDiff: had };
    own.send({ type: 'data', data: [{ type: 'push_result', clientClock, serverClock: this.clock, action }] });
    const shown = {};
    if (presence) {
      own.presence = clone(own.presence ?? {});
      if (presence[0] === 'put') own.presence = clone(presence[1]);
      else lay(presence[1], own.presence);
      shown[`instance_presence:${session}`] = ['put', { ...own.presence, id: `instance_presence:${session}` }];
    }
    if (isChanged || presence) this.tell(session, { ...had, ...shown });
  }

  /** Older removals are not known any more, or the whole of it is as it was never seen. */
  forget(next) {
    this.historyStart = this.clock;
    this.removed.clear();
    if (next() < 0.3) this.clock += 100;
  }

  documents() {
    return new Map([...this.records].map(([id, { state }]) => [id, state]));
  }
}

/** A client, and what is on its way to it and from it. */
class Client {
  replica = new Replica();
  toServer = [];
  toClient = [];
  isConnected = false;
  requests = 0;

  constructor(name, server) {
    this.name = name;
    this.server = server;
  }

  connect(isReadonly) {
    this.drop();
    this.isConnected = true;
    this.isReadonly = isReadonly;
    this.requests += 1;
    this.toServer.push(this.replica.connect(String(this.requests), {}));
  }

  drop() {
    if (!this.isConnected) return;
    // Whatever is on its way is lost.
    [this.toServer, this.toClient, this.isConnected] = [[], [], false];
    this.replica.disconnect();
    this.server.leave(this.name);
  }

  deliverToServer() {
    const message = clone(this.toServer.shift());
    if (message?.type === 'connect') {
      const { isReadonly, toClient } = this;
      this.server.connect(this.name, message, { isReadonly, send: (told) => toClient.push(clone(told)) });
    } else if (message) this.server.push(this.name, message);
  }

  deliverToClient() {
    const message = this.toClient.shift();
    if (message) assert.ok(this.replica.hear(message), 'what the server says follows');
  }

  flush() {
    const message = this.replica.flush();
    if (message) this.toServer.push(message);
  }
}

const IDS = ['shape:a', 'shape:b', 'shape:c', 'shape:d'];

/** Something that somebody could do to what they see. */
function anyChange(replica, next) {
  const diff = {};
  for (const id of IDS) {
    if (next() < 0.6) continue;
    const record = replica.records.get(id);
    if (!record || next() < 0.1) {
      diff[id] = ['put', { id, typeName: 'shape', x: 0, props: { points: [], text: 'new' } }];
    } else if (next() < 0.15) diff[id] = ['remove'];
    else {
      const points = [...record.props.points, Math.floor(next() * 9)];
      const changed = [
        { ...record, x: Math.floor(next() * 5) },
        { ...record, props: { ...record.props, points } },
        { ...record, props: { ...record.props, points: points.slice(-1) } },
        { ...record, props: { ...record.props, text: `${record.props.text}${Math.floor(next() * 9)}`.slice(-6) } },
        { ...record, extra: next() < 0.5 ? 1 : 2 },
        Object.fromEntries(Object.entries(record).filter(([key]) => key !== 'extra')),
      ][Math.floor(next() * 6)];
      const patch = difference(record, changed);
      if (patch) diff[id] = ['patch', patch];
    }
  }
  return diff;
}

function play(seed) {
  const next = numbers(seed);
  const server = new ModelServer();
  const clients = ['ada', 'ben', 'cleo'].map((name) => new Client(name, server));
  for (let step = 0; step < 200; step += 1) {
    const client = clients[Math.floor(next() * clients.length)];
    const what = next();
    if (what < 0.25) client.replica.change(anyChange(client.replica, next));
    else if (what < 0.4) client.flush();
    else if (what < 0.6) client.deliverToServer();
    else if (what < 0.85) client.deliverToClient();
    else if (what < 0.92) client.connect(next() < 0.2);
    else if (what < 0.95) client.drop();
    else if (what < 0.97) client.replica.present({ cursor: Math.floor(next() * 9) });
    else if (next() < 0.2) server.forget(next);
  }
  for (const client of clients) client.connect(false);
  const isBusy = () => clients.some((client) => client.toServer.length + client.toClient.length > 0 || !client.replica.isSaved);
  while (isBusy()) {
    for (const client of clients) {
      client.flush();
      client.deliverToServer();
      client.deliverToClient();
    }
  }
  for (const { name, replica } of clients) {
    const seen = Object.fromEntries(replica.records);
    assert.deepEqual(seen, Object.fromEntries(server.documents()), `seed ${seed}: ${name} sees what the server has`);
    for (const [session, { presence }] of server.sessions) {
      if (session === name || !presence) continue;
      assert.equal(replica.others.get(`instance_presence:${session}`)?.cursor, presence.cursor, `seed ${seed}`);
    }
  }
}

test('whatever is lost and in whatever order it comes, all end with what the server has', () => {
  const from = Number(process.env.SEED ?? 1);
  for (let seed = from; seed < from + Number(process.env.RUNS ?? 500); seed += 1) play(seed);
});

test('who draws alone sees nothing but what they do, and loses none of it', () => {
  for (let seed = 1; seed <= 500; seed += 1) {
    const next = numbers(seed);
    const server = new ModelServer();
    const client = new Client('ada', server);
    client.connect(false);
    client.deliverToServer();
    client.deliverToClient();
    for (let step = 0; step < 100; step += 1) {
      const what = next();
      if (what < 0.3) client.replica.change(anyChange(client.replica, next));
      const before = Object.fromEntries(client.replica.records);
      if (what > 0.3 && what < 0.5) client.flush();
      else if (what < 0.7) client.deliverToServer();
      else if (what < 0.9) client.deliverToClient();
      else if (what < 0.95) client.connect(false);
      else if (what < 0.96) server.forget(next);
      assert.deepEqual(Object.fromEntries(client.replica.records), before, `seed ${seed}, step ${step}`);
    }
  }
});

test('two diffs in one do what they do one after the other', () => {
  for (let seed = 1; seed <= 1_000; seed += 1) {
    const next = numbers(seed);
    const replica = new Replica();
    replica.change(Object.fromEntries(IDS.map((id) => [id, ['put', { id, typeName: 'shape', x: 1, props: { points: [1], text: '' } }]])));
    const start = new Map(replica.records);
    let all = {};
    for (let step = 0; step < 4; step += 1) {
      const diff = anyChange(replica, next);
      replica.change(diff);
      all = composed(all, diff);
    }
    for (const id of IDS) {
      const op = all[id];
      assert.deepEqual(op ? after(start.get(id), op) : start.get(id), replica.records.get(id), `seed ${seed}`);
    }
  }
});

test('what one does is seen at once, and taken back if one may only look', () => {
  const replica = new Replica();
  const shape = { id: 'shape:a', typeName: 'shape' };
  replica.change({ 'shape:a': ['put', shape] });
  assert.deepEqual(replica.records.get('shape:a'), shape);
  assert.equal(replica.flush(), null, 'nobody is there to take it');
  replica.connect('1', {});
  replica.hear({ type: 'connect', connectRequestId: '1', hydrationType: 'wipe_all', serverClock: 3, diff: {}, isReadonly: true });
  assert.equal(replica.records.size, 0);
  assert.equal(replica.dropped, 1);
  replica.change({ 'shape:a': ['put', shape] });
  assert.equal(replica.records.size, 0);
});

test('an answer that does not follow asks for a new connection', () => {
  const replica = new Replica();
  replica.connect('1', {});
  replica.hear({ type: 'connect', connectRequestId: '1', hydrationType: 'wipe_all', serverClock: 3, diff: {}, isReadonly: false });
  const result = { type: 'push_result', clientClock: 7, serverClock: 4, action: 'commit' };
  assert.equal(replica.hear({ type: 'data', data: [result] }), false);
});

test('no entry becomes the prototype of a record', () => {
  const record = { id: 'shape:a', typeName: 'shape' };
  const op = JSON.parse('["patch",{"__proto__":["put",{"isBad":true}],"x":["put",1]}]');
  const changed = after(record, op);
  assert.equal(changed.isBad, undefined);
  assert.equal(changed.x, 1);
});

test('a long message goes in parts, and no character is cut', () => {
  const text = `${'a'.repeat(261_950)}${'😀'.repeat(200_000)}`;
  const message = { type: 'push', clientClock: 1, diff: { 'shape:a': ['patch', { text: ['put', text] }] } };
  const parts = frames(message);
  assert.deepEqual(parts.map((part) => Number(part.slice(0, part.indexOf('_')))), [2, 1, 0]);
  assert.ok(parts.every((part) => part.length <= 262_144 && part.isWellFormed()));
  assert.deepEqual(JSON.parse(parts.map((part) => part.slice(part.indexOf('_') + 1)).join('')), message);
});
