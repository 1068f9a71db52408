// The client in a real browser against a real server: what people do, and what comes of it.
import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { PATIENCE, Proxy, Server, eventually, launch, site } from './kit.js';

// How many edits are made offline. Those beyond the rate of a user wait for it.
const EDITS = Number(process.env.ROWTIDE_EDITS ?? 400);

let server, proxy, pages, browser;
before(async () => {
  // The last of the edits are beyond the rate.
  server = await Server.start('--requests-per-minute', `${EDITS - 20}`);
  proxy = await Proxy.start(server);
  pages = await site(server, proxy);
  browser = await launch();
});
after(async () => {
  await browser?.close();
  pages?.end();
  proxy?.end();
  await server?.end();
});
afterEach(async () => {
  proxy.repair();
  for (const context of browser.contexts()) await context.close();
});

/** Opens a page in which a client runs. */
async function tab(context, options = {}) {
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  page.on('pageerror', (error) => assert.fail(error));
  await load(page, options);
  return page;
}

async function load(page, options = {}) {
  await page.goto(pages.url);
  await page.waitForFunction('window.loaded');
  await page.evaluate((options) => start(options), { url: proxy.url, ...options });
}

const until = (page, holds, argument) => page.waitForFunction(holds, argument, { polling: 50 });
const live = (page) => until(page, () => db.status.get().connection === 'live');
const profile = () => browser.newContext();
const nameOf = (page, id) => page.evaluate((id) => db.table('file').get(id)?.name, id);
const rename = (page, id, name) => page.evaluate(({ id, name }) => void db.mutate((tx) => tx.file.update({ id, name })), { id, name });
const fileOf = (user, at = 0) => server.sql(`SELECT id FROM file WHERE "ownerId" = '${user}' AND NOT "isDeleted" ORDER BY id OFFSET ${at} LIMIT 1`);
const named = (page, id, name) => until(page, ({ id, name }) => db.table('file').get(id)?.name === name, { id, name });
const acked = (page) => until(page, () => db.status.get().pending === 0);

test('two people see each other write, each their own rows', async () => {
  const [one, two] = [await tab(await profile(), { user: 'u1' }), await tab(await profile(), { user: 'u2' })];
  await Promise.all([live(one), live(two)]);
  const id = fileOf('u1');
  assert.equal(await nameOf(two, id), undefined);
  await one.evaluate((id) => db.mutate((tx) => tx.file.update({ id, shared: true, name: 'Ours' })).confirmed, id);
  await two.evaluate((fileId) => db.mutate((tx) => tx.file_state.insert({ userId: 'u2', fileId })).confirmed, id);
  await named(two, id, 'Ours');
  await rename(one, id, 'Still ours');
  await named(two, id, 'Still ours');
  await one.evaluate((id) => db.mutate((tx) => tx.file.update({ id, shared: false })).confirmed, id);
  await until(two, (id) => !db.table('file').get(id), id);
});

test('a rejected mutation is no longer shown, and its promise says why', async () => {
  const page = await tab(await profile(), { user: 'u1' });
  await live(page);
  const [shown, rejection, after] = await page.evaluate(async () => {
    const email = () => db.table('user').get('u1').email;
    const { confirmed } = db.mutate((tx) => tx.user.update({ id: 'u1', email: 'a@b.c' }));
    const shown = email();
    const { code, message } = await confirmed.catch((error) => error);
    return [shown, { code, message }, email()];
  });
  assert.deepEqual([shown, after], ['a@b.c', 'u1@example.com']);
  assert.equal(rejection.code, 'forbidden');
  assert.match(rejection.message, /email/);
});

test('mutations made offline survive a reload and are applied once', async () => {
  const page = await tab(await profile(), { user: 'u3' });
  await live(page);
  const id = fileOf('u3');
  const clientId = await page.evaluate(() => sent[0].clientId);
  proxy.cut();
  await until(page, () => db.status.get().connection === 'offline');
  await rename(page, id, 'Written offline');
  await page.evaluate((fileId) => void db.mutate((tx) => tx.file_state.insert({ userId: 'u3', fileId, isPinned: true })), id);
  // Both are stored once `close` resolves.
  await page.evaluate(() => db.close());
  await load(page);
  assert.equal(await nameOf(page, id), 'Written offline');
  assert.deepEqual(await page.evaluate(() => [db.status.get().pending, db.table('file').all().length > 1]), [2, true]);
  await page.evaluate(() => {
    window.outcomes = [];
    db.onAcked(({ code }) => outcomes.push(code ?? 'applied'));
  });
  proxy.repair();
  await acked(page);
  await live(page);
  assert.deepEqual(await page.evaluate(() => outcomes), ['applied', 'applied']);
  assert.equal(server.sql(`SELECT name FROM file WHERE id = '${id}'`), 'Written offline');
  assert.equal(server.sql(`SELECT last_mutation FROM rowtide_files.client WHERE client_id = '${clientId}'`), '2');
});

test('the tabs of a browser share one connection and one queue, which outlive the leading tab', async () => {
  const context = await profile();
  const first = await tab(context, { user: 'u4' });
  await live(first);
  const second = await tab(context);
  await live(second);
  const leads = (page) => page.evaluate(() => db.status.get().leads);
  assert.deepEqual([await leads(first), await leads(second)], [true, false]);
  // Those of pages that are closed end a moment later.
  const isOne = () => eventually('one connection', () => proxy.connections === 1);
  await isOne();
  const id = fileOf('u4');
  await rename(second, id, 'By the second');
  await named(first, id, 'By the second');
  await acked(second);
  await rename(first, id, 'By the first');
  await named(second, id, 'By the first');
  await Promise.all([acked(first), acked(second)]);
  const rejection = await second.evaluate(() => db.mutate((tx) => tx.user.update({ id: 'u4', flags: 'x' })).confirmed.catch(({ code }) => code));
  assert.equal(rejection, 'forbidden');
  proxy.cut();
  await until(second, () => db.status.get().connection === 'offline');
  await rename(second, id, 'Offline, by the second');
  await named(first, id, 'Offline, by the second');
  await first.close();
  await until(second, () => db.status.get().leads);
  proxy.repair();
  await live(second);
  await acked(second);
  assert.equal(server.sql(`SELECT name FROM file WHERE id = '${id}'`), 'Offline, by the second');
  await isOne();
});

test('a mutation that a tab makes before it has opened reaches the leading tab, and `disconnect` is for all tabs', async () => {
  const context = await profile();
  const first = await tab(context, { user: 'u10' });
  await live(first);
  const second = await context.newPage();
  await second.goto(pages.url);
  await second.waitForFunction('window.loaded');
  const id = fileOf('u10');
  await second.evaluate(({ url, id }) => {
    const opened = start({ url, tables: { file: { key: ['id'] } } });
    const { confirmed } = db.mutate((tx) => tx.file.update({ id, name: 'Before it has opened' }));
    return opened.then(() => confirmed);
  }, { url: proxy.url, id });
  await Promise.all([named(first, id, 'Before it has opened'), named(second, id, 'Before it has opened')]);
  await second.evaluate(() => db.disconnect());
  await until(first, () => db.status.get().connection === 'offline');
  await rename(second, id, 'While offline');
  await first.evaluate(() => db.connect());
  await Promise.all([acked(second), live(second)]);
  assert.equal(server.sql(`SELECT name FROM file WHERE id = '${id}'`), 'While offline');
});

test('a token is renewed before it expires, on the same connection', async () => {
  const page = await tab(await profile(), { user: 'u5', seconds: 3 });
  await live(page);
  const { made } = proxy;
  await until(page, () => sent.filter(({ type }) => type === 'auth').length >= 2);
  const id = fileOf('u5');
  await rename(page, id, 'After the first token');
  await acked(page);
  assert.equal(server.sql(`SELECT name FROM file WHERE id = '${id}'`), 'After the first token');
  assert.equal(proxy.made, made);
});

test('signing out deletes the copy, and the next user sees only their own rows', async () => {
  const context = await profile();
  const [page, other] = [await tab(context, { user: 'u6' }), await tab(context)];
  await Promise.all([live(page), live(other)]);
  await page.evaluate(() => db.signOut());
  for (const each of [page, other]) {
    await until(each, () => db.status.get().connection === 'stopped');
    assert.deepEqual(await each.evaluate(() => [db.table('file').all(), db.status.get().error.code]), [[], 'signed_out']);
  }
  await other.close();
  const stored = await page.evaluate(async () => {
    let rows = 0;
    for (const { name } of await indexedDB.databases()) {
      const database = await new Promise((resolve) => (indexedDB.open(name).onsuccess = (event) => resolve(event.target.result)));
      for (const store of ['rows', 'entries']) {
        const request = database.transaction(store).objectStore(store).count();
        rows += await new Promise((resolve) => (request.onsuccess = () => resolve(request.result)));
      }
      database.close();
    }
    return rows;
  });
  assert.equal(stored, 0);
  // The next user signs in although the last one has not signed out: the last one's rows are not shown.
  await load(page, { user: 'u7' });
  await live(page);
  assert.deepEqual(await page.evaluate(() => db.table('user').all().map(({ id }) => id)), ['u7']);
  await load(page, { user: 'u8' });
  await live(page);
  assert.deepEqual(await page.evaluate(() => db.table('user').all().map(({ id }) => id)), ['u8']);
});

test('a query is in its order in every tab, and says whether it is all that there is', async () => {
  const context = await profile();
  const page = await tab(context, { user: 'u4', queries: true });
  const sorted = "SELECT string_agg(name, ',' ORDER BY name COLLATE \"C\" DESC, id DESC) FROM file WHERE \"ownerId\" = 'u4'";
  const watch = (page) => page.evaluate(() => {
    window.files = db.table('file').where({ ownerId: 'u4' }).orderBy([['name', 'desc']]);
    window.count = files.count();
    window.told = [];
    files.subscribe((changes) => told.push(...changes.map(({ row }) => row.name)));
  });
  await watch(page);
  const complete = (page) => until(page, () => files.status === 'complete');
  const names = (page) => page.evaluate(() => files.all().map(({ name }) => name).join());
  await complete(page);
  assert.equal(await names(page), server.sql(sorted));
  const other = await tab(context, { queries: true });
  await watch(other);
  await complete(other);
  assert.equal(await names(other), server.sql(sorted));
  await page.evaluate((id) => db.mutate((tx) => tx.file.update({ id, name: 'zuletzt ä' })).confirmed, fileOf('u4', 1));
  await until(other, () => told.includes('zuletzt ä'));
  assert.equal(await names(other), server.sql(sorted));
  assert.equal(await names(page), server.sql(sorted));
  assert.equal(await other.evaluate(() => count.get()), Number(server.sql("SELECT count(*) FROM file WHERE \"ownerId\" = 'u4'")));
  await other.close();
  proxy.cut();
  await until(page, () => db.status.get().connection === 'offline');
  assert.equal(await page.evaluate(() => files.status), 'complete');
  // What was stored may be old.
  await load(page, { queries: true });
  await watch(page);
  await until(page, () => files.status === 'partial');
  assert.equal(await names(page), server.sql(sorted));
  proxy.repair();
  await page.evaluate(() => db.connect());
  await complete(page);
});

test('a client waits for a server that restarts', async () => {
  const page = await tab(await profile(), { user: 'u9' });
  await live(page);
  const id = fileOf('u9');
  await server.stop();
  await until(page, () => db.status.get().connection !== 'live');
  await rename(page, id, 'While it was away');
  assert.equal(await nameOf(page, id), 'While it was away');
  await server.start();
  await page.evaluate(() => db.connect());
  await acked(page);
  await live(page);
  assert.equal(server.sql(`SELECT name FROM file WHERE id = '${id}'`), 'While it was away');
});

test('where IndexedDB never answers, the client goes on in memory and says that nothing will outlive the page', async () => {
  const context = await profile();
  await context.addInitScript(() => {
    IDBFactory.prototype.open = () => ({});
  });
  const page = await tab(context, { user: 'u11' });
  await live(page);
  const { durable, storageError, leads } = await page.evaluate(() => db.status.get());
  assert.deepEqual([durable, leads], [false, true]);
  assert.match(storageError, /does not answer/);
  const id = fileOf('u11');
  await page.evaluate((id) => db.mutate((tx) => tx.file.update({ id, name: 'In memory' })).stored, id);
  assert.equal(server.sql(`SELECT name FROM file WHERE id = '${id}'`), 'In memory');
});

test('a worker has a copy too, which it shares with the page', async () => {
  const page = await tab(await profile(), { user: 'u12' });
  await live(page);
  const id = fileOf('u12');
  const token = server.token('u12');
  const status = await page.evaluate(async ({ url, token, id }) => {
    const program = `
      import { createClient } from '${location.origin}/client/index.js';
      const db = createClient({ url: '${url}', token: () => '${token}', user: 'u12' });
      await db.opened;
      await db.mutate((tx) => tx.file.update({ id: '${id}', name: 'By the worker' })).confirmed;
      postMessage(db.status.get());`;
    const worker = new Worker(URL.createObjectURL(new Blob([program], { type: 'text/javascript' })), { type: 'module' });
    return new Promise((resolve, reject) => {
      worker.onmessage = ({ data }) => resolve(data);
      worker.onerror = ({ message }) => reject(new Error(message));
    });
  }, { url: proxy.url, token, id });
  assert.deepEqual([status.durable, status.leads, status.user], [true, false, 'u12']);
  assert.equal(await nameOf(page, id), 'By the worker');
});

test('IndexedDB conforms to what a storage must do', async () => {
  const page = await (await profile()).newPage();
  await page.goto(pages.url);
  const outcome = await page.evaluate(async () => {
    const [{ indexedDBStorage, memoryStorage }, { conforms }, { random }] = await Promise.all(
      ['/client/index.js', '/test/conformance.js', '/test/random.js'].map((module) => import(module)),
    );
    return conforms(indexedDBStorage(), memoryStorage(), random(1), 60);
  });
  assert.equal(outcome, 'conforms');
});


test(`${EDITS} edits made offline, in tabs and over reloads, arrive once and in order over a bad day of the server`, async (t) => {
  server.sql('CREATE TABLE heard (at bigserial, name text)');
  server.sql(`CREATE FUNCTION hear() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN INSERT INTO heard (name) VALUES (new.name); RETURN new; END'`);
  server.sql(`CREATE TRIGGER hear AFTER UPDATE OF name ON file FOR EACH ROW WHEN (new.name LIKE 'edit %') EXECUTE FUNCTION hear()`);
  const context = await profile();
  // Its token has expired when it comes back.
  const options = { user: 'u13', seconds: 10 };
  let tabs = [await tab(context, options)];
  await live(tabs[0]);
  const id = fileOf('u13');
  proxy.cut();
  const made = new Map();
  const PHASES = 4;
  for (let phase = 0; phase < PHASES; phase++) {
    // Without a word, as when a phone takes the memory.
    for (const page of tabs) await page.close();
    tabs = [await tab(context, options), await tab(context, options)];
    const [from, to] = [Math.round((phase * EDITS) / PHASES), Math.round(((phase + 1) * EDITS) / PHASES)];
    const write = (page, by) => page.evaluate(async ({ from, to, by, id }) => {
      window.told = {};
      db.onAcked(({ id, code }) => (told[id] = [...(told[id] ?? []), code ?? 'applied']));
      const written = [];
      for (let n = from; n < to; n++) {
        if (n % 2 !== by) continue;
        written.push([n, db.mutate((tx) => (n % 97 ? tx.file.update({ id, name: `edit ${n}` }) : tx.user.update({ id: 'u13', email: `${n}` })))]);
      }
      await Promise.all(written.map(([, { stored }]) => stored));
      return written.map(([n, { id }]) => [id, n]);
    }, { from, to, by, id });
    const written = await Promise.all(tabs.map(write));
    for (const [mutation, n] of written.flat()) made.set(mutation, n);
  }
  const begun = Date.now();
  for (const page of tabs) page.setDefaultTimeout(PATIENCE + EDITS * 200);
  const waiting = (page, count) => until(page, (count) => db.status.get().pending <= count, count);
  assert.equal(await tabs[0].evaluate(() => db.status.get().pending), EDITS);
  proxy.repair();
  for (const page of tabs) await page.evaluate(() => db.connect());
  await waiting(tabs[0], EDITS - 1);
  await server.stop();
  await server.start();
  for (const page of tabs) await page.evaluate(() => db.connect());
  await waiting(tabs[0], EDITS / 2);
  server.sql('ALTER TABLE file ADD COLUMN more text');
  await Promise.all(tabs.map(acked));
  t.diagnostic(`${EDITS} edits came in ${Date.now() - begun} ms`);

  const isRejected = (n) => n % 97 === 0;
  const heard = server.sql('SELECT name FROM heard ORDER BY at').split('\n').map((name) => Number(name.slice(5)));
  assert.deepEqual([...heard].sort((a, b) => a - b), [...made.values()].filter((n) => !isRejected(n)).sort((a, b) => a - b));
  for (const by of [0, 1]) {
    const mine = heard.filter((n) => n % 2 === by);
    assert.deepEqual(mine, [...mine].sort((a, b) => a - b));
  }
  const phaseOf = (n) => Math.floor((n * PHASES) / EDITS);
  assert.deepEqual(heard.map(phaseOf), heard.map(phaseOf).sort());
  for (const page of tabs) {
    const told = new Map(Object.entries(await page.evaluate(() => told)));
    assert.equal(told.size, EDITS);
    for (const [mutation, outcomes] of told) assert.deepEqual(outcomes, [isRejected(made.get(mutation)) ? 'forbidden' : 'applied']);
    await until(page, (id) => 'more' in db.table('file').get(id), id);
  }
});
