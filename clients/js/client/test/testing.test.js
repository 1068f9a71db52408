// The test kit: what it lets a client see and do, over the real protocol and with the real client, without timers.
import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';
import { createClient, memoryStorage } from '@rowtide/client';
import { serial, testServer } from '@rowtide/client/testing';
import { random } from './random.js';

const isMember = (project, auth, db) => !!db.row('member', { project, person: auth.userId });

const definition = {
  tables: {
    project: { key: ['id'], visible: ({ id, open }, auth, db) => open || isMember(id, auth, db), defaults: { open: false } },
    member: {
      key: ['project', 'person'],
      visible: ({ person }, { userId }) => person === userId,
      delete: ({ person }, { userId }) => person === userId,
    },
    issue: {
      key: ['id'],
      visible: ({ project }, auth, db) => db.rows('project', { id: project, open: true }).length > 0 || isMember(project, auth, db),
      insert: ({ project, author }, auth, db) => {
        if (db.rows('issue', { author }).length >= 5) return 'too_many_issues';
        return author === auth.userId && isMember(project, auth, db);
      },
      update: (before, after, auth, db) => isMember(before.project, auth, db) && isMember(after.project, auth, db),
      delete: ({ author }, { userId }) => author === userId,
      immutable: ['author'],
      readonly: ['number'],
      defaults: { id: serial, number: ({ id }) => id * 10, status: 'open', note: null },
      constraints: { issue_status: ({ status }) => ['open', 'done'].includes(status) },
      trigger: (tx, { before, after }) => before && !after && tx.log.insert({ text: `${before.title} deleted` }),
    },
    message: {
      key: ['id'],
      sync: 'on_demand',
      visible: ({ project }, auth, db) => isMember(project, auth, db),
      insert: () => true,
      delete: () => true,
    },
    // Nobody sees it.
    log: { key: ['id'], defaults: { id: serial } },
  },
  queries: {
    of: { params: { project: 'int4' }, select: { message: ({ project }, params) => project === params.project } },
    last: { params: { count: 'int4 = 2' }, select: { message: { order: 'at DESC, id', limit: ({ count }) => count } } },
  },
  mutations: {
    join: (tx, { project }, auth, db) => {
      if (!db.row('project', project)) throw Object.assign(new Error('there is no such project'), { code: 'no_project' });
      if (project === 3) throw new Error('it is full');
      tx.member.insert({ project, person: auth.userId });
    },
    broken: (tx) => tx.nothing.insert({ id: 1 }),
  },
};

let server;
beforeEach(() => {
  server = testServer(definition);
  server.write((tx) => {
    for (const id of [1, 2, 3]) tx.project.insert({ id, name: `P${id}`, open: id === 2 });
    tx.member.insert({ project: 1, person: 'ann' });
    tx.issue.insert({ project: 1, author: 'bob', title: 'old' });
    for (const id of [1, 2, 3, 4]) tx.message.insert({ id, project: id % 2, at: id < 4 ? id : null });
  });
});
afterEach(() => server.close());

const outcome = ({ confirmed }) => confirmed.then(() => 'applied', ({ code, message }) => `${code}: ${message}`);
const titles = (db) => db.table('issue').all().map(({ title }) => title).sort();
const ids = (db) => db.table('message').all().map(({ id }) => id).sort();

async function opened(user = 'ann', options = {}) {
  const db = server.client(user, options);
  await server.settled();
  return db;
}

test('a client of an application sees the rows that the rules select, and what changes them', async () => {
  const db = createClient({ url: server.url, WebSocket: server.WebSocket, token: () => server.token('ann'), storage: memoryStorage() });
  await server.settled();
  assert.equal(db.status.get().connection, 'live');
  assert.deepEqual(db.tables().sort(), ['issue', 'member', 'message', 'project']);
  assert.deepEqual(db.table('project').all().map(({ id }) => id), [1, 2]);
  assert.deepEqual(db.table('issue').all(), [{ id: 1, project: 1, author: 'bob', title: 'old', number: 10, status: 'open', note: null }]);
  server.write((tx) => {
    tx.project.update({ id: 2, open: false });
    tx.issue.update({ id: 1, title: 'new' });
  });
  await server.settled();
  assert.deepEqual([titles(db), db.table('project').all().length], [['new'], 1]);
  server.write((tx) => tx.member.delete({ project: 1, person: 'ann' }));
  await server.settled();
  assert.deepEqual([titles(db), db.table('project').all()], [[], []]);
  await db.close();
});

test('a mutation shows at once, is judged, and is acknowledged with its effects; keys are made', async () => {
  const [ann, other] = [await opened(), await opened()];
  let issue;
  const first = ann.mutate((tx) => (issue = tx.issue.insert({ project: 1, author: 'ann', title: 'mine' })) && undefined);
  const second = ann.mutate((tx) => tx.issue.update({ id: issue.id, title: 'still mine' }));
  assert.deepEqual(titles(ann), ['old', 'still mine']);
  assert.deepEqual([server.rows('issue').length, ann.status.get().pending], [1, 2]);
  await server.settled();
  assert.deepEqual([await outcome(first), await outcome(second)], ['applied', 'applied']);
  assert.deepEqual(server.row('issue', 2), { id: 2, project: 1, author: 'ann', title: 'still mine', number: 20, status: 'open', note: null });
  for (const db of [ann, other]) assert.deepEqual(db.table('issue').get(2), server.row('issue', 2));
  assert.equal(ann.status.get().pending, 0);
});

test('a mutation is rejected with the codes of the server, all of it', async () => {
  const db = await opened();
  for (const [write, expected] of [
    [(tx) => tx.issue.insert({ project: 2, author: 'ann' }), /^forbidden: ops\[0\]: the rule for inserts into table `issue` says no/],
    [(tx) => tx.issue.insert({ id: 1, project: 1, author: 'eve' }), /^forbidden: .*`author`.* is written by an insert alone/],
    [(tx) => tx.issue.update({ id: 1, author: 'ann' }), /^forbidden: .*`author`/],
    [(tx) => tx.issue.update({ id: 1, number: 3 }), /^forbidden: .*`number`.* is read-only/],
    [(tx) => tx.issue.update({ id: 1, project: 2 }), /^forbidden: .*the rules for updates of table `issue` say no/],
    [(tx) => tx.issue.update({ id: 7, title: '' }), /^not_found: ops\[0\]: there is no such row in table `issue`/],
    [(tx) => tx.issue.delete(1), /^forbidden: .*the rule for deletes/],
    [(tx) => tx.issue.update({ id: 1, status: 'lost' }), /^constraint: .*`issue_status`/],
    [(tx) => tx.project.delete(1), /^forbidden: .*nothing may be deleted from table `project`/],
    [(tx) => tx.log.insert({ id: 1 }), /^bad_request: .*there is no table `log`/],
    [(tx) => (tx.issue.update({ id: 1, title: 'kept?' }), tx.issue.delete(8)), /^not_found: ops\[1\]/],
    [(_, call) => call('nothing'), /^bad_request: .*there is no mutation `nothing`/],
    [(_, call) => call('join', { project: 9 }), /^no_project: there is no such project$/],
    [(_, call) => call('join', { project: 3 }), /^rejected: it is full$/],
  ]) {
    const made = db.mutate((tx, call) => void write(tx, call));
    await server.settled();
    assert.match(await outcome(made), expected);
  }
  assert.deepEqual(titles(db), ['old']);
  for (let more = 0; more < 6; more++) db.mutate((tx) => void tx.issue.insert({ project: 1, author: 'ann', title: `${more}` }));
  const codes = [];
  db.onAcked(({ code }) => codes.push(code));
  await server.settled();
  assert.deepEqual(codes, [undefined, undefined, undefined, undefined, undefined, 'too_many_issues']);
});

test('an insert of a row that is there is an update of it, unless its user may not see it', async () => {
  const [ann, bob] = [await opened(), await opened('bob')];
  const seen = ann.mutate((tx) => void tx.issue.insert({ id: 1, title: 'again' }));
  const unseen = bob.mutate((tx) => void tx.issue.insert({ id: 1, title: 'again', author: 'bob', project: 1 }));
  await server.settled();
  assert.deepEqual([await outcome(seen), server.row('issue', 1).title], ['applied', 'again']);
  assert.match(await outcome(unseen), /^forbidden: .*or the key is taken/);
});

test('a call writes as the owner, and its effects come with the acknowledgement; triggers write, too', async () => {
  const db = await opened();
  const joined = db.mutate((_, call) => call('join', { project: 2 }));
  await joined.confirmed;
  assert.ok(db.table('member').get({ project: 2, person: 'ann' }));
  server.write((tx) => tx.issue.delete(1));
  assert.deepEqual(server.rows('log'), [{ id: 1, text: 'old deleted' }]);
});

test('a test decides what is rejected next, and how connections end', async () => {
  const db = await opened();
  server.rejectNext('forbidden', 'not today');
  const [first, second] = ['a', 'b'].map((title) => db.mutate((tx) => tx.issue.update({ id: 1, title })));
  await server.settled();
  assert.deepEqual([await outcome(first), await outcome(second)], ['forbidden: not today', 'applied']);
  server.end('client_too_old');
  await server.settled();
  assert.deepEqual([db.status.get().connection, db.status.get().error.code], ['stopped', 'client_too_old']);
});

test('what is written offline shows, and is applied once when the network is back; the client is told what it missed', async () => {
  const received = [];
  const db = await opened('ann', { trace: (direction, message) => direction === 'received' && received.push(message) });
  server.offline();
  await server.settled();
  assert.equal(db.status.get().connection, 'offline');
  const { confirmed } = db.mutate((tx) => tx.issue.update({ id: 1, title: 'offline' }));
  server.write((tx) => tx.issue.insert({ project: 1, author: 'bob', title: 'meanwhile' }));
  await server.settled();
  assert.deepEqual([titles(db), server.row('issue', 1).title], [['offline'], 'old']);
  received.length = 0;
  server.online();
  await server.settled();
  await confirmed;
  assert.deepEqual(titles(db), ['meanwhile', 'offline']);
  assert.deepEqual(received.map(({ type }) => type), ['connected', 'tx', 'ready', 'tx']);
  assert.equal(received[0].mode, 'resume');
  assert.deepEqual(received[1].changes.map(({ row }) => row.title), ['meanwhile']);
});

test('a client that is closed goes on with its storage, also under the numbers that it had', async () => {
  const storage = memoryStorage();
  const before = await opened('ann', { storage });
  server.offline();
  before.mutate((tx) => tx.issue.update({ id: 1, title: 'kept' }));
  await server.settled();
  await before.close();
  server.online();
  const db = await opened('ann', { storage });
  assert.deepEqual([server.row('issue', 1).title, db.status.get().pending], ['kept', 0]);
});

test('subscriptions bring rows and take them away; a window is the first rows in its order', async () => {
  const db = await opened();
  const of = db.subscribe('of', { project: 1 });
  await of.ready;
  assert.deepEqual(ids(db), [1, 3]);
  const refused = [db.subscribe('of'), db.subscribe('of', { project: 'one' }), db.subscribe('all'), db.subscribe('last', { count: -1 })];
  await server.settled();
  assert.deepEqual(refused.map(({ status, error }) => `${status} ${error?.code}`), Array(4).fill('refused bad_request'));
  server.write((tx) => {
    tx.member.insert({ project: 0, person: 'ann' });
    tx.message.insert({ id: 5, project: 1, at: 9 });
  });
  await server.settled();
  assert.deepEqual(ids(db), [1, 3, 5]);
  const window = testServer(definition);
  const viewer = window.client('ann');
  await viewer.subscribe('last').ready;
  window.write((tx) => {
    tx.member.insert({ project: 1, person: 'ann' });
    for (const [id, at] of [[1, 3], [2, 9], [3, 9], [4, 4]]) tx.message.insert({ id, project: 1, at });
  });
  await window.settled();
  assert.deepEqual(ids(viewer), [2, 3]);
  window.write((tx) => tx.message.delete(2));
  await window.settled();
  assert.deepEqual(ids(viewer), [3, 4]);
  await window.close();
});

test('who has no token is let in where the definition says so, and writes nothing', async () => {
  const nobody = await opened(null);
  assert.equal(nobody.status.get().error.code, 'unauthorized');
  const open = testServer({ ...definition, anonymous: true });
  open.write((tx) => tx.project.insert({ id: 2, open: true }));
  const db = open.client(null);
  const refused = db.mutate((tx) => void tx.issue.insert({ project: 2, author: 'x' }));
  await open.settled();
  assert.deepEqual([db.table('project').all().length, await outcome(refused)], [1, 'forbidden: nobody is signed in']);
  await open.close();
});

test('a function of the definition that fails by mistake fails the test', async () => {
  const db = await opened();
  const { confirmed } = db.mutate((_, call) => call('broken'));
  await assert.rejects(server.settled(), { name: 'TypeError', message: /no table `nothing`/ });
  await assert.rejects(confirmed, { code: 'unknown_error' });
  await server.settled();
});

/** A connection whose messages a test writes itself. */
function raw() {
  const socket = new server.WebSocket(server.url, 'rowtide.v1');
  const heard = [];
  socket.onmessage = ({ data }) => heard.push(JSON.parse(data));
  socket.onclose = ({ code }) => heard.push(code);
  const said = async (...messages) => {
    await server.settled();
    for (const message of messages) socket.send(typeof message === 'string' ? message : JSON.stringify(message));
    await server.settled();
    return heard.splice(0);
  };
  return { said, hello: (more) => said({ type: 'connect', protocol: 1, clientId: 'client-1', token: server.token('ann'), ...more }) };
}

const renaming = (id, title, row = 1) => ({ type: 'mutate', id, ops: [{ op: 'update', table: 'issue', row: { id: row, title } }] });

test('a number that was acknowledged is not applied again, and its outcome is told again', async () => {
  const one = raw();
  await one.hello();
  await one.said(renaming(1, 'first'), renaming(2, 'lost', 9), renaming(3, 'third'));
  server.write((tx) => tx.issue.update({ id: 1, title: 'since' }));
  const two = raw();
  const [connected] = await two.hello({ settled: 1 });
  assert.deepEqual([connected.lastMutation, connected.refused.map(({ id, code }) => [id, code])], [3, [[2, 'not_found']]]);
  assert.deepEqual((await one.said()).slice(-1), [4410]);
  const [rejection, { ack, changes }] = await two.said(renaming(2, 'again'));
  assert.deepEqual([rejection.type, rejection.id, ack, changes], ['reject', 2, 3, []]);
  assert.equal(server.row('issue', 1).title, 'since');
  assert.deepEqual((await two.said(renaming(5, 'a gap'))).slice(-1), [4400]);
});

test('a client comes back by its cursor, and is sent everything where that is of no use', async () => {
  const cursorOf = (heard) => heard.findLast(({ cursor }) => cursor).cursor;
  const first = await raw().hello();
  assert.deepEqual([first[0].mode, first.at(-1).type], ['snapshot', 'ready']);
  server.write((tx) => tx.issue.delete(1));
  const [connected, tx, ready] = await raw().hello({ cursor: cursorOf(first) });
  assert.deepEqual([connected.mode, tx.changes, ready.type], ['resume', [{ op: 'delete', table: 'issue', row: { id: 1 } }], 'ready']);
  for (const other of [{ cursor: 'unknown' }, { cursor: ready.cursor, token: server.token('ann', { team: 7 }) }]) {
    assert.equal((await raw().hello(other))[0].mode, 'snapshot');
  }
});

test('what is no message, or not from who may say it, ends the connection as the protocol says', async () => {
  assert.deepEqual((await raw().said({ type: 'ping' })).slice(-1), [4400]);
  await raw().hello();
  for (const [hello, code] of [[{ token: server.token('bob') }, 4403], [{ token: 'x' }, 4401], [{ protocol: 2 }, 4400], [{ clientId: 'short' }, 4400]]) {
    assert.deepEqual((await raw().hello(hello)).slice(-1), [code]);
  }
  for (const [message, code] of [['{', 4400], [{ type: 'x' }, 4400], [{ type: 'auth', token: server.token('bob') }, 4401], [{ type: 'auth', token: server.token('ann', { team: 7 }) }, 1012]]) {
    const connection = raw();
    await connection.hello();
    assert.deepEqual((await connection.said(message)).slice(-1), [code]);
  }
  const connection = raw();
  await connection.hello();
  assert.deepEqual(await connection.said({ type: 'ping' }, { type: 'auth', token: server.token('ann') }), [{ type: 'pong' }]);
});

test('clients that write at random over a network that breaks end with the rows that the rules select, each mutation applied once', async () => {
  for (let seed = 1; seed <= 20; seed++) {
    const rng = random(seed);
    const world = testServer(definition);
    world.write((tx) => {
      for (const id of [1, 2]) tx.project.insert({ id, open: id === 2 });
      for (const person of ['ann', 'bob']) tx.member.insert({ project: 1, person });
      for (let id = 1; id <= 4; id++) tx.issue.insert({ project: 1 + (id % 2), author: 'zoe', title: '' });
    });
    const clients = ['ann', 'ann', 'bob'].map((user) => world.client(user));
    await world.settled();
    let written = 0;
    for (let step = 0; step < 60; step++) {
      const db = clients[rng.below(3)];
      const id = 1 + rng.below(4);
      if (rng.chance(0.6)) db.mutate((tx) => tx.issue.update({ id, title: `${db.table('issue').get(id)?.title ?? ''}${written++},` }));
      else if (rng.chance(0.3)) rng.chance(0.5) ? world.offline() : world.online();
      else if (rng.chance(0.3)) world.write((tx, rows) => (rows.row('member', { project: 2, person: 'bob' }) ? tx.member.delete({ project: 2, person: 'bob' }) : tx.member.insert({ project: 2, person: 'bob' })));
      if (rng.chance(0.4)) await world.settled();
      else for (let turns = rng.below(12); turns; turns--) await undefined;
    }
    world.online();
    await world.settled();
    for (const db of clients) {
      assert.deepEqual([db.status.get().connection, db.status.get().pending], ['live', 0], `seed ${seed}`);
      assert.deepEqual([...db.table('issue').all()].sort((a, b) => a.id - b.id), world.rows('issue'), `seed ${seed}`);
    }
    for (const { title } of world.rows('issue')) {
      const marks = title.split(',').filter(Boolean);
      assert.equal(new Set(marks).size, marks.length, `seed ${seed}: applied twice`);
    }
    await world.close();
  }
});
