// The list of files as people have it: built, in a real browser, over a real server.

import assert from 'node:assert/strict';
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Server, eventually } from '../../../../clients/js/test/kit.js';
import { ROOT, one, running, serve, signIn } from './site.js';

/** The mutations in the browser's copies, as text. */
function storedMutations(page) {
  return page.evaluate(async () => {
    const answer = (request) => new Promise((resolve) => (request.onsuccess = () => resolve(request.result)));
    const found = [];
    for (const { name } of await indexedDB.databases()) {
      const database = await answer(indexedDB.open(name));
      if (database.objectStoreNames.contains('entries')) {
        found.push(await answer(database.transaction('entries').objectStore('entries').getAll()));
      }
      database.close();
    }
    return JSON.stringify(found);
  });
}

test('one finds one’s files, by name and by whose they are', async (t) => {
  const { page, list, row } = await signIn(t, 'u1');
  await row('Sketch 1').waitFor();
  await eventually('more than twenty files, also those of others', async () => (await list.getByRole('listitem').count()) > 20);
  await page.keyboard.press('/');
  await page.keyboard.type('sketch 1');
  await row('Map 2').waitFor({ state: 'detached' });
  await row('Sketch 1').waitFor();
  await page.getByRole('searchbox').fill('nothing has this name');
  await page.getByText('Nothing is called “nothing has this name”.').waitFor();
  await page.getByRole('searchbox').fill('');
  await page.getByRole('button', { name: /^Mine/ }).click();
  await eventually('one’s own alone', async () => (await list.getByRole('listitem').count()) === 20);
});

test('what is created and renamed in one window is in the other', async (t) => {
  const [here, there] = [await signIn(t, 'u4'), await signIn(t, 'u4')];
  await there.list.getByRole('listitem').first().waitFor();
  await here.page.getByRole('button', { name: 'New file' }).click();
  await here.page.getByLabel('New name of Untitled').fill('Made here');
  await here.page.keyboard.press('Enter');
  await there.row('Made here').waitFor();
  await there.choose('Made here', 'Rename');
  await there.page.getByLabel('New name of Made here').fill('Renamed there');
  await there.page.keyboard.press('Enter');
  await here.row('Renamed there').waitFor();
  // Escape leaves the name as it is.
  await here.choose('Renamed there', 'Rename');
  await here.page.keyboard.type('Not this');
  await here.page.keyboard.press('Escape');
  await here.row('Renamed there').waitFor();
  assert.equal(
    await one(`SELECT count(*) FROM file_state JOIN file ON id = "fileId" WHERE name = 'Renamed there'`),
    '1',
  );
});

test('a file that is shared is there for whoever follows its link, until it is not', async (t) => {
  const owner = await signIn(t, 'u5');
  const name = await one(`SELECT name FROM file WHERE id = 'f82'`);
  await owner.row(name).waitFor();
  await owner.choose(name, 'Share');
  const dialog = owner.page.getByRole('dialog');
  await dialog.getByLabel('Anyone with the link can view').check();
  await dialog.getByLabel('Anyone with the link can edit').check();
  await dialog.getByRole('button', { name: 'Copy link' }).click();
  const link = await eventually('the link is copied', async () => {
    const text = await owner.page.evaluate(() => navigator.clipboard.readText());
    return text.includes('#') && text;
  });
  await dialog.getByRole('button', { name: 'Done' }).click();
  await owner.row(name).getByText('Can edit').waitFor();
  // The owner sees it before the server knows of it.
  await eventually('it is shared', () => one(`SELECT shared AND "sharedLinkType" = 'edit' FROM file WHERE id = 'f82'`) === 't');

  // The link leads to the drawing, and from then on the file is in the list.
  const guest = await signIn(t, 'u500', { to: new URL(link).hash });
  await guest.page.getByRole('heading', { name }).waitFor();
  await guest.page.getByRole('link', { name: 'Back to the files' }).click();
  await guest.row(name).waitFor();
  await guest.page.getByRole('button', { name: /^Shared with me/ }).click();
  await guest.row(name).getByText('From ').waitFor();
  // A guest's pin is their own.
  await guest.row(name).hover();
  await guest.page.getByRole('button', { name: `Pin ${name}` }).click();
  await eventually(
    'the pin is stored',
    async () => (await one(`SELECT "isPinned" FROM file_state WHERE "userId" = 'u500' AND "fileId" = 'f82'`)) === 't',
  );
  await guest.page.getByRole('button', { name: /^Pinned/ }).click();
  await guest.row(name).waitFor();
  assert.equal(await owner.page.getByRole('button', { name: `Pin ${name}` }).getAttribute('aria-pressed'), 'false');
  // What the owner takes back is gone at once.
  await owner.choose(name, 'Share');
  await dialog.getByLabel('Only you').check();
  await guest.row(name).waitFor({ state: 'detached' });
  // And the link leads nowhere.
  const late = await signIn(t, 'u501', { to: new URL(link).hash });
  await late.page.getByText('This file is not shared with you').waitFor();
});

test('what is deleted can be brought back while it says so, and is gone after that', async (t) => {
  const { page, row, choose } = await signIn(t, 'u6');
  const [name, other] = await Promise.all(
    ['f101', 'f102'].map((id) => one(`SELECT name FROM file WHERE id = '${id}'`)),
  );
  await row(name).waitFor();
  await choose(name, 'Delete');
  await row(name).waitFor({ state: 'detached' });
  await page.getByRole('button', { name: 'Undo' }).click();
  await row(name).waitFor();
  assert.equal(await one(`SELECT "isDeleted" FROM file WHERE id = 'f101'`), 'f');
  await choose(other, 'Delete');
  await page.getByRole('button', { name: 'Dismiss' }).click();
  await eventually(
    'the deletion is stored',
    async () => (await one(`SELECT "isDeleted" FROM file WHERE id = 'f102'`)) === 't',
  );
  assert.equal(await row(other).count(), 0);
});

test('a rejected mutation is no longer shown, and a toast says why', async (t) => {
  await one(`INSERT INTO file (id, name, "ownerId", thumbnail, shared, "sharedLinkType", published, "lastPublished",
      "publishedSlug", "createdAt", "updatedAt", "isEmpty")
    SELECT 'full' || n, 'Full ' || n, 'u7', '', false, 'view', false, 0, 'full-' || n, n, n, true FROM generate_series(1, 180) n`);
  const { page, row } = await signIn(t, 'u7');
  await row('Full 1').waitFor();
  await page.getByRole('button', { name: 'New file' }).click();
  await page.getByText('You have 200 files, and more are not possible.').waitFor();
  await page.getByLabel('New name of Untitled').waitFor({ state: 'detached' });
  assert.equal(await one(`SELECT count(*) FROM file WHERE "ownerId" = 'u7'`), '200');
});

test('offline one goes on, also over a reload, and it arrives once one is back', async (t) => {
  const { page, row, choose, line } = await signIn(t, 'u8');
  const name = await one(`SELECT name FROM file WHERE id = 'f141'`);
  await row(name).waitFor();
  line.cut();
  await page.getByText('You are offline.').waitFor();
  await choose(name, 'Rename');
  await page.getByLabel(`New name of ${name}`).fill('Written offline');
  await page.keyboard.press('Enter');
  await page.getByText('1 change is kept').waitFor();
  await page.getByRole('button', { name: 'New file' }).click();
  await page.getByLabel('New name of Untitled').fill('Made offline');
  await page.keyboard.press('Enter');
  await page.getByText('3 changes are kept').waitFor();
  // They are counted before they are stored.
  await eventually('all of it is stored', async () => {
    const stored = await storedMutations(page);
    return ['Written offline', 'Made offline'].every((name) => stored.includes(name));
  });
  await page.reload();
  await row('Written offline').waitFor();
  await row('Made offline').waitFor();
  await page.getByText('3 changes are kept').waitFor();
  assert.equal(await one(`SELECT name FROM file WHERE id = 'f141'`), name);
  line.repair();
  await page.getByText('You are offline.').waitFor({ state: 'detached' });
  await eventually(
    'the change has arrived',
    async () => (await one(`SELECT name FROM file WHERE id = 'f141'`)) === 'Written offline',
  );
  await row('Written offline').waitFor();
  await row('Made offline').waitFor();
  assert.equal(await one(`SELECT "ownerId" FROM file WHERE name = 'Made offline'`), 'u8');
});

test('whoever signs out leaves nothing behind', async (t) => {
  const { page, row, list } = await signIn(t, 'u9');
  const name = await one(`SELECT name FROM file WHERE id = 'f161'`);
  await row(name).waitFor();
  await page.getByRole('button', { name: /^Signed in as/ }).click();
  await page.getByRole('menuitem', { name: /^Sign out/ }).click();
  await page.getByRole('button', { name: 'u2', exact: true }).click();
  await list.getByRole('listitem').first().waitFor();
  assert.equal(await row(name).count(), 0);
});

test('all of it can be done with the keyboard', async (t) => {
  const { page, row } = await signIn(t, 'u11');
  const name = await one(`SELECT name FROM file WHERE id = 'f201'`);
  await row(name).waitFor();
  await page.getByRole('button', { name: `Actions for ${name}`, exact: true }).focus();
  await page.keyboard.press('Enter');
  for (const key of ['ArrowDown', 'ArrowUp', 'Escape']) await page.keyboard.press(key);
  assert.equal(await page.evaluate(() => document.activeElement.getAttribute('aria-label')), `Actions for ${name}`);
  await page.keyboard.press('Enter');
  await page.keyboard.press('Enter');
  await page.keyboard.press('Control+A');
  await page.keyboard.type('By keyboard');
  await page.keyboard.press('Enter');
  await row('By keyboard').waitFor();
  await page.getByRole('button', { name: 'Actions for By keyboard' }).focus();
  await page.keyboard.press('Enter');
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('Enter');
  await page.getByRole('dialog').waitFor();
  await page.keyboard.press('Escape');
  await page.getByRole('dialog').waitFor({ state: 'detached' });
});

test('a page that is too old asks to be reloaded', async (t) => {
  const dir = await mkdtemp(join(tmpdir(), 'files-too-old-'));
  t.after(() => rm(dir, { recursive: true }));
  const definition = await readFile(join(ROOT, '../rowtide.toml'), 'utf8');
  await writeFile(join(dir, 'rowtide.toml'), definition.replace('[app]', '[app]\nmin_client = 2'));
  await cp(join(ROOT, '../migrations'), join(dir, 'migrations'), { recursive: true });
  const newer = await Server.start('--definition', join(dir, 'rowtide.toml'), '--migrations', join(dir, 'migrations'));
  running.push(() => newer.end());
  const { page } = await signIn(t, 'u1', { url: await serve(newer) });
  await page.getByRole('alertdialog', { name: 'Please reload' }).waitFor();
  await page.getByRole('button', { name: 'Reload' }).click();
  await page.getByRole('alertdialog', { name: 'Please reload' }).waitFor();
});

test('it fits a phone', async (t) => {
  const { page, list } = await signIn(t, 'u12');
  await page.setViewportSize({ width: 390, height: 844 });
  await list.getByRole('listitem').first().waitFor();
  assert.ok((await page.evaluate(() => document.documentElement.scrollWidth)) <= 390);
});
