// The test kit against the real server: the same random course of mutations, with the tracker's definition and with its
// rules written as functions, has the same outcomes and leaves everybody with the same rows. ROWTIDE_SEED=n plays another.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import WebSocket from 'ws';
import { createClient } from '@rowtide/client';
import { testServer } from '@rowtide/client/testing';
import { startDev } from '@rowtide/client/testing/dev';
import { random } from '../client/test/random.js';
import { until } from '../client/test/scripted.js';
import { binary } from './kit.js';

const MUTATIONS = 200;
const tracker = new URL('../../../examples/tracker/', import.meta.url).pathname;

const role = (workspace_id, { userId }, db) => db.row('member', { workspace_id, person_id: userId })?.role;
const isMember = (workspace_id, auth, db) => ['owner', 'member'].includes(role(workspace_id, auth, db));
const isOwner = (workspace_id, auth, db) => role(workspace_id, auth, db) === 'owner';
const workspaceOf = (project_id, db) => db.row('project', project_id)?.workspace_id ?? null;
const isOfProject = (project_id, auth, db) => isMember(workspaceOf(project_id, db), auth, db);
const isShown = (project_id, auth, db) => isOfProject(project_id, auth, db) && db.row('project', project_id).archived_at === null;
const isGuest = (issue_id, { userId }, db) => !!db.row('issue_guest', { issue_id, person_id: userId });
const projectOf = (issue_id, db) => db.row('issue', issue_id)?.project_id ?? null;

/** A key of another table: it must be there, and what refers to it goes with it, or keeps it. */
const refers = (column, table) => ({ [`${column}_fkey`]: (row, db) => db.row(table, row[column]) !== undefined });
const cascade = (...referring) => (tx, { before, after }, db) => {
  for (const [table, column] of after ? [] : referring) db.rows(table, { [column]: before.id }).forEach((row) => tx[table].delete(row));
};
const isSelf = ({ id }, { userId }) => id === userId;

const definition = {
  tables: {
    person: { key: ['id'], visible: isSelf, immutable: ['id'], insert: isSelf, update: (before, after, auth) => isSelf(before, auth) },
    workspace: {
      key: ['id'],
      visible: ({ id }, auth, db) => isMember(id, auth, db),
      insert: () => true,
      update: ({ id }, after, auth, db) => isOwner(id, auth, db),
      delete: ({ id }, auth, db) => isOwner(id, auth, db),
      trigger: cascade(['member', 'workspace_id'], ['project', 'workspace_id']),
    },
    member: {
      key: ['workspace_id', 'person_id'],
      visible: ({ workspace_id }, auth, db) => isMember(workspace_id, auth, db),
      insert: (row, auth, db) =>
        isOwner(row.workspace_id, auth, db) ||
        (row.person_id === auth.userId && row.role === 'owner' && db.rows('member', { workspace_id: row.workspace_id }).length === 0),
      update: (row, after, auth, db) => isOwner(row.workspace_id, auth, db),
      delete: (row, auth, db) => row.person_id === auth.userId || isOwner(row.workspace_id, auth, db),
      constraints: { ...refers('workspace_id', 'workspace'), ...refers('person_id', 'person') },
    },
    project: {
      key: ['id'],
      visible: ({ workspace_id, archived_at }, auth, db) => archived_at === null && isMember(workspace_id, auth, db),
      insert: ({ workspace_id }, auth, db) => isMember(workspace_id, auth, db),
      update: (before, after, auth, db) => isMember(before.workspace_id, auth, db) && isMember(after.workspace_id, auth, db),
      delete: ({ workspace_id }, auth, db) => isOwner(workspace_id, auth, db),
      defaults: { archived_at: null },
      constraints: refers('workspace_id', 'workspace'),
      trigger: cascade(['issue', 'project_id']),
    },
    issue: {
      key: ['id'],
      visible: ({ id, project_id }, auth, db) => isShown(project_id, auth, db) || isGuest(id, auth, db),
      insert: ({ project_id, author_id }, auth, db) => author_id === auth.userId && isOfProject(project_id, auth, db),
      update: (before, after, auth, db) => isOfProject(before.project_id, auth, db) && isOfProject(after.project_id, auth, db),
      delete: ({ author_id, project_id }, auth, db) => author_id === auth.userId || isOwner(workspaceOf(project_id, db), auth, db),
      immutable: ['author_id', 'created_at'],
      defaults: { status: 'open', labels: [], estimate: null },
      constraints: refers('project_id', 'project'),
      trigger: cascade(['comment', 'issue_id'], ['issue_guest', 'issue_id']),
    },
    comment: {
      key: ['id'],
      visible: ({ issue_id }, auth, db) => isShown(projectOf(issue_id, db), auth, db) || isGuest(issue_id, auth, db),
      insert: ({ issue_id, author_id }, auth, db) =>
        author_id === auth.userId && (isOfProject(projectOf(issue_id, db), auth, db) || isGuest(issue_id, auth, db)),
      update: ({ author_id }, after, auth) => author_id === auth.userId,
      delete: ({ author_id }, auth) => author_id === auth.userId,
      immutable: ['issue_id', 'author_id', 'created_at'],
    },
    issue_guest: {
      key: ['issue_id', 'person_id'],
      visible: ({ issue_id, person_id }, auth, db) => person_id === auth.userId || isShown(projectOf(issue_id, db), auth, db),
      insert: ({ issue_id }, auth, db) => isOfProject(projectOf(issue_id, db), auth, db),
      delete: ({ issue_id, person_id }, auth, db) => person_id === auth.userId || isOfProject(projectOf(issue_id, db), auth, db),
      constraints: refers('person_id', 'person'),
    },
  },
};

const PEOPLE = ['ann', 'bob', 'cleo'];
const uuid = (kind, n) => `00000000-0000-4000-${kind}000-${String(n).padStart(12, '0')}`;

/** The rows at first: each has a workspace with a project, ann is a member of all. @type {[string, any][]} */
const BEGINNING = PEOPLE.flatMap((id, at) => [
  ['person', { id, name: id }],
  ['workspace', { id: uuid('8', at + 1), name: `of ${id}` }],
  ...PEOPLE.slice(0, at + 1).filter((other) => other === id || other === 'ann').map((other) => (
    ['member', { workspace_id: uuid('8', at + 1), person_id: other, role: other === id ? 'owner' : 'member' }])),
  ['project', { id: uuid('9', at + 1), workspace_id: uuid('8', at + 1), name: `of ${id}` }],
  ['issue', { id: uuid('a', at + 1), project_id: uuid('9', at + 1), title: `of ${id}`, author_id: id }],
]);

/** One mutation of one person. */
function course(rng) {
  const one = (values) => values[rng.below(values.length)];
  const [workspace, project, issue, comment] = ['8', '9', 'a', 'b'].map((kind) => uuid(kind, 1 + rng.below(rng.chance(0.5) ? 1 : 3)));
  const [self, other] = [rng.chance(0.5) ? 'ann' : one(PEOPLE), one(PEOPLE)];
  const roles = ['owner', 'owner', 'member', 'member', 'member', 'suspended'];
  const operations = [
    (tx) => tx.workspace.insert({ id: workspace, name: `W${rng.below(9)}` }),
    (tx) => (tx.workspace.insert({ id: workspace, name: 'Mine' }), tx.member.insert({ workspace_id: workspace, person_id: self, role: 'owner' })),
    (tx) => tx.member.insert({ workspace_id: workspace, person_id: other, role: one(roles) }),
    (tx) => tx.member.update({ workspace_id: workspace, person_id: other, role: one(roles) }),
    (tx) => tx.project.insert({ id: project, workspace_id: workspace, name: `P${rng.below(9)}` }),
    (tx) => tx.project.update({ id: project, archived_at: rng.chance(0.3) ? '2026-01-01T00:00:00Z' : null }),
    (tx) => tx.project.update({ id: project, workspace_id: workspace }),
    (tx) => tx.issue.insert({ id: issue, project_id: project, title: `I${rng.below(9)}`, author_id: rng.chance(0.9) ? self : other }),
    (tx) => tx.issue.insert({ id: issue, project_id: project, title: 'With all', author_id: self, labels: ['a', 'b c'], status: 'doing' }),
    (tx) => tx.issue.update({ id: issue, title: `T${rng.below(9)}`, status: one(['open', 'done']) }),
    (tx) => tx.issue.update({ id: issue, project_id: project }),
    (tx) => tx.issue.update({ id: issue, author_id: self }),
    (tx) => tx.comment.insert({ id: comment, issue_id: issue, author_id: self, body: `C${rng.below(9)}` }),
    (tx) => tx.comment.update({ id: comment, body: `B${rng.below(9)}` }),
    (tx) => tx.comment.delete(comment),
    (tx) => tx.issue_guest.insert({ issue_id: issue, person_id: rng.chance(0.5) ? other : 'nobody' }),
    (tx) => tx.issue_guest.delete({ issue_id: issue, person_id: other }),
    (tx) => rng.chance(0.5) && tx.issue.delete(issue),
    (tx) => rng.chance(0.3) ? tx.project.delete(project) : tx.project.update({ id: project, name: 'P' }),
    (tx) => rng.chance(0.15) ? tx.member.delete({ workspace_id: workspace, person_id: other }) : tx.person.update({ id: self, name: 'N' }),
  ];
  const written = Array.from({ length: rng.chance(0.8) ? 1 : 2 }, () => one(operations));
  return { self, written };
}

/** The operations of a mutation, so that both servers are sent the same. */
function recorded(written) {
  const ops = [];
  const table = (name) => Object.fromEntries(['insert', 'update', 'delete'].map((op) => [op, (row) => ops.push([name, op, row])]));
  const tx = Object.fromEntries(Object.keys(definition.tables).map((name) => [name, table(name)]));
  written.forEach((write) => write(tx));
  return ops;
}

const shown = (db) => Object.fromEntries(Object.keys(definition.tables).map((name) => [name, db.table(name).all()
  .map(({ created_at, ...row }) => JSON.stringify(Object.entries(row).sort()))
  .sort()]));

test('a random course has the same outcomes and leaves the same rows', async () => {
  const rng = random(Number(process.env.ROWTIDE_SEED ?? 5));
  const app = await startDev({ binary, definition: `${tracker}rowtide.toml`, migrations: `${tracker}migrations`, args: ['--requests-per-minute', '0'] });
  const kit = testServer(definition);
  const clients = PEOPLE.map((user) => {
    const real = createClient({ url: app.url, WebSocket, token: () => app.token(user), tables: kit.tables });
    return [user, { real, inMemory: kit.client(user) }];
  });
  const of = Object.fromEntries(clients);
  try {
    await app.sql(BEGINNING.map(([table, row]) => `INSERT INTO ${table} (${Object.keys(row)}) VALUES ('${Object.values(row).join("', '")}')`).join(';'));
    kit.write((tx) => BEGINNING.forEach(([table, row]) => tx[table].insert(row)));
    for (const [, { real }] of clients) await until(real.status, ({ connection }) => connection === 'live');
    const codes = {};
    for (let at = 0; at < MUTATIONS; at++) {
      const { self, written } = course(rng);
      const ops = recorded(written);
      if (!ops.length) continue;
      const outcome = (db) => db.mutate((tx) => ops.forEach(([table, op, row]) => void tx[table][op](row))).confirmed.then(() => 'applied', ({ code, message }) => ({ code, message }));
      const [real, inMemory] = await Promise.all([outcome(of[self].real), outcome(of[self].inMemory)]);
      const code = real.code ?? real;
      assert.equal(inMemory.code ?? inMemory, code, `mutation ${at} of ${self}, ${JSON.stringify({ ops, real, inMemory })}`);
      codes[code] = (codes[code] ?? 0) + 1;
    }
    const isUsual = process.env.ROWTIDE_SEED === undefined;
    for (const code of ['applied', 'forbidden', 'not_found', 'constraint']) assert.ok(codes[code] > 1 || !isUsual, JSON.stringify(codes));
    await kit.settled();
    for (const [user, { real, inMemory }] of clients) {
      const expected = JSON.stringify(shown(inMemory));
      const rows = { get: () => JSON.stringify(shown(real)), subscribe: (listener) => real.subscribe(listener) };
      await until(rows, (now) => now === expected, `the rows of ${user}`).catch(() => assert.deepEqual(shown(real), shown(inMemory)));
      assert.ok(inMemory.table('person').all().length, user);
    }
  } finally {
    await Promise.all(clients.map(([, { real }]) => real.close()));
    await kit.close();
    await app.stop();
  }
});
