// What two people do to each other's rows, and what is said of it.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { eventually } from '../kit.js';
import { files, hasText, notes, open, tracker } from './site.js';

test('what one person edits the other has at once, and so is what psql does', async (t) => {
  const { left, right } = await open(t, files, { table: 'file' });
  await left.write('f5', 'name', 'Seen by both');
  await hasText(await right.cell('f5', 'name'), 'Seen by both');
  await hasText(left.outcome, 'confirmed');
  await files.sql(`UPDATE file SET name = 'From psql' WHERE id = 'f5'`);
  await hasText(await left.cell('f5', 'name'), 'From psql');
  await hasText(await right.cell('f5', 'name'), 'From psql');
  // Rows come and go with rights.
  await files.sql(`UPDATE file SET shared = false WHERE id = 'f5'`);
  await right.row('f5').waitFor({ state: 'detached' });
  assert.equal(await left.row('f5').count(), 1);
});

test('a change that is rejected is taken back, and it is said why', async (t) => {
  const { page, left } = await open(t, files, { table: 'file' });
  const before = await (await left.cell('f1', 'ownerName')).textContent();
  await left.write('f1', 'ownerName', 'Somebody');
  await hasText(left.notice, 'column `ownerName` of table `file` is read-only');
  await hasText(left.notice, 'forbidden');
  await hasText(left.outcome, 'forbidden');
  await hasText(await left.cell('f1', 'ownerName'), before);
  await hasText(page.getByRole('status'), 'u1: rejected, forbidden');
  await left.element.getByRole('button', { name: 'Dismiss' }).click();
  assert.equal(await left.notice.isVisible(), false);
});

test('offline one goes on writing, and it arrives with the return', async (t) => {
  const { left, right } = await open(t, files, { table: 'file' });
  await right.element.getByRole('button', { name: 'Go offline' }).click();
  await hasText(right.status, 'Offline');
  await right.write('f21', 'name', 'Written offline');
  await hasText(right.status, '1 pending');
  await hasText(right.outcome, 'pending');
  assert.match(await (await right.cell('f21', 'name')).getAttribute('class'), /pending/);
  await left.write('f10', 'name', 'Meanwhile');
  await hasText(left.outcome, 'confirmed');
  assert.notEqual(await (await right.cell('f10', 'name')).textContent(), 'Meanwhile');
  assert.notEqual(await files.sql(`SELECT name FROM file WHERE id = 'f21'`), 'Written offline');
  await right.element.getByRole('button', { name: 'Come back' }).click();
  await hasText(await right.cell('f10', 'name'), 'Meanwhile');
  await hasText(right.outcome, 'confirmed');
  await hasText(right.status, 'Live');
  assert.doesNotMatch(await (await right.cell('f21', 'name')).getAttribute('class'), /pending/);
  assert.equal(await files.sql(`SELECT name FROM file WHERE id = 'f21'`), 'Written offline');
});

test('all of it can be done with the keyboard', async (t) => {
  const { page, left } = await open(t, files, { table: 'file' });
  const { keyboard } = page;
  const active = () =>
    page.evaluate(() => {
      const {
        activeElement: { textContent, className },
      } = document;
      return { textContent, className };
    });
  await left.element.getByRole('combobox').focus();
  // From who is signed in over the buttons and tabs into the grid.
  await eventually('Tab leads into the grid', async () => {
    await keyboard.press('Tab');
    return (await active()).className.includes('cell');
  });
  await keyboard.press('Control+Home');
  assert.equal(await page.evaluate(() => document.activeElement.getAttribute('role')), 'columnheader');
  for (const key of ['ArrowDown', 'ArrowDown', 'ArrowRight', 'ArrowRight']) await keyboard.press(key);
  const before = (await active()).textContent;
  assert.equal(before, await (await left.cell('f2', 'name')).textContent());
  // What is typed takes the place of what was there, unless Escape takes it back.
  await keyboard.type('Not kept');
  await keyboard.press('Escape');
  assert.equal((await active()).textContent, before);
  await keyboard.type('Typed');
  await keyboard.press('Enter');
  await hasText(await left.cell('f2', 'name'), 'Typed');
  assert.equal((await active()).textContent, 'Typed', 'focus stays in the cell');
  await hasText(left.outcome, 'confirmed');
  // A boolean is toggled.
  await (await left.cell('f2', 'shared')).focus();
  await keyboard.press('Enter');
  await hasText(await left.cell('f2', 'shared'), 'true');
  // A value that does not fit is not taken.
  await (await left.cell('f2', 'updatedAt')).focus();
  await keyboard.type('soon');
  await keyboard.press('Enter');
  await hasText(page.getByRole('status'), 'updatedAt: a whole number is expected');
  await keyboard.press('Escape');
  // A row is inserted with what is proposed, and deleted.
  await left.element.getByRole('button', { name: 'Insert row' }).focus();
  await keyboard.press('Enter');
  const dialog = page.getByRole('dialog');
  await dialog.getByLabel(/^name/).fill('Inserted');
  const id = await dialog.getByLabel(/^id/).inputValue();
  await keyboard.press('Enter');
  await hasText(await left.cell(id, 'name'), 'Inserted');
  await hasText(left.outcome, 'confirmed');
  assert.equal(await files.sql(`SELECT "ownerId" FROM file WHERE id = '${id}'`), 'u1');
  await keyboard.press('Shift+Delete');
  await left.row(id).waitFor({ state: 'detached' });
  await hasText(left.outcome, 'confirmed');
  assert.equal(await files.sql(`SELECT count(*) FROM file WHERE id = '${id}'`), '0');
});

test('whoever signs in begins with nothing of the one before', async (t) => {
  const { left, right } = await open(t, files, { table: 'file' });
  await right.write('f22', 'name', 'By u2');
  await hasText(right.outcome, 'confirmed');
  await right.element.getByRole('combobox').selectOption('u3');
  await right.row('f41').waitFor();
  assert.equal(await right.row('f22').count(), 0);
  assert.equal(await right.outcome.count(), 0);
  // Also somebody who is not listed.
  await right.element.getByRole('combobox').selectOption({ label: 'Someone else …' });
  await right.element.getByLabel('The id of a user').fill('u1');
  await right.element.getByLabel('The id of a user').press('Enter');
  await right.row('f1').waitFor();
  await left.write('f3', 'name', 'The same person');
  await hasText(await right.cell('f3', 'name'), 'The same person');
});

test('the messages of both directions can be read', async (t) => {
  const { left } = await open(t, files, { table: 'file' });
  await left.write('f4', 'name', 'Logged');
  await hasText(left.outcome, 'confirmed');
  await left.element.getByRole('tab', { name: /^Messages/ }).click();
  const messages = left.element.locator('.messages');
  for (const text of [
    'sentconnect',
    'receivedconnected u1',
    'receivedsnapshot file,',
    'sentmutate #1 update file',
    'receivedtx put file, ack #1',
  ]) {
    await messages.getByRole('listitem').filter({ hasText: text }).waitFor();
  }
  const mutate = messages.getByRole('listitem').filter({ hasText: 'mutate' });
  await mutate.locator('summary').press('Enter');
  await hasText(mutate.locator('pre'), '"name": "Logged"');
  // A token is for the server alone.
  const connect = messages.getByRole('listitem').filter({ hasText: 'sentconnect ' });
  await connect.locator('summary').click();
  assert.match(await connect.locator('pre').textContent(), /"token": ".{8}…"/);
});

test('thousands of rows are drawn by those in sight', async (t) => {
  await files.sql(`INSERT INTO file (id, name, "ownerId", thumbnail, shared, "sharedLinkType", published, "lastPublished",
      "publishedSlug", "createdAt", "updatedAt", "isEmpty")
    SELECT 'many' || n, 'Many ' || n, 'u900', '', false, 'view', false, 0, 'many-' || n, n, n, true FROM generate_series(1, 5000) n`);
  const { page, left } = await open(t, files, { users: ['u900', 'u2'], table: 'file' });
  await hasText(left.element.getByRole('tab', { name: /^file \d/ }), /50\d\d/);
  await left.element.locator('.body [tabindex="0"]').focus();
  await page.keyboard.press('Control+End');
  await page.keyboard.press('Home');
  await left.row('many5000').waitFor();
  const drawn = await left.element.locator('.body .row').count();
  assert.ok(drawn < 60, `${drawn} rows are drawn`);
  assert.ok(Number(await left.element.getByRole('grid').getAttribute('aria-rowcount')) > 5000);
});

test('it shows an application that it has never heard of', async (t) => {
  const { page, left, right } = await open(t, tracker, { table: 'issue' });
  const issue = '00000000-0000-4000-a000-000000000001';
  // An enum is chosen from its labels.
  await (await left.cell(issue, 'status')).click();
  await page.keyboard.press('Enter');
  await left.element.getByRole('combobox', { name: 'status' }).selectOption('doing');
  await page.keyboard.press('Enter');
  await hasText(await right.cell(issue, 'status'), 'doing');
  // An array is written as JSON, and null is a key away.
  await left.write(issue, 'labels', '["bug", "urgent"]');
  await hasText(await right.cell(issue, 'labels'), '["bug","urgent"]');
  await (await left.cell(issue, 'estimate')).focus();
  await page.keyboard.press('Delete');
  await hasText(await right.cell(issue, 'estimate'), 'null');
  await page
    .getByRole('region', { name: 'Left' })
    .getByRole('button', { name: `Delete row ${issue}` })
    .click();
  await right.row(issue).waitFor({ state: 'detached' });
  // What is proposed for a new row is taken as it is.
  await left.element.getByRole('button', { name: 'Insert row' }).click();
  const id = await page.getByRole('dialog').getByLabel(/^id/).inputValue();
  await page.getByRole('dialog').getByRole('button', { name: 'Insert' }).click();
  await hasText(left.outcome, 'confirmed');
  assert.equal(await tracker.sql(`SELECT author_id FROM issue WHERE id = '${id}'`), 'u1');
});

test('claims, versions, keys that the database numbers and names with quotes are no obstacle', async (t) => {
  const { page, left, right } = await open(t, notes);
  await left.element.getByText('u1 sees no rows of note.').waitFor();
  const claim = async (person, name, value) => {
    await person.element.getByLabel(name).fill(value);
    await person.element.getByLabel(name).press('Enter');
    await hasText(person.status, 'Live');
  };
  for (const person of [left, right]) await claim(person, 'team', 'red');
  await left.write(1, 'price', '1.5');
  await hasText(left.notice, 'forbidden');
  await claim(left, 'level', '3');
  await left.write(1, 'price', '1.5');
  await hasText(await right.cell(1, 'price'), '1.50');
  await left.write(1, 'odd "name', 'quoted');
  await hasText(await right.cell(1, 'odd "name'), 'quoted');
  await left.write(1, 'body', '{"deep": [1, null]}');
  await hasText(await right.cell(1, 'body'), '{"deep":[1,null]}');
  await left.element.getByRole('button', { name: 'Insert row' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Insert' }).click();
  await hasText(left.outcome, 'confirmed');
  await hasText(await right.cell(4, 'team'), 'red');
});

test('rows are in order, also those that come and those that change', async (t) => {
  const { left } = await open(t, files, { table: 'file' });
  await left.element.getByRole('columnheader').filter({ hasText: 'name' }).first().click();
  const first = left.element.locator('.body [aria-rowindex="2"]');
  await files.sql(`UPDATE file SET name = 'A first one' WHERE id = 'f9'`);
  await first.and(left.row('f9')).waitFor();
  await files.sql(`UPDATE file SET name = 'Last' WHERE id = 'f9'`);
  await left.element.locator('.body [aria-rowindex="2"]').and(left.row('f9')).waitFor({ state: 'detached' });
  // The other way round.
  await left.element.getByRole('columnheader').filter({ hasText: 'name' }).first().press('Enter');
  await files.sql(`UPDATE file SET name = 'Zebra' WHERE id = 'f9'`);
  await first.and(left.row('f9')).waitFor();
});

test('it fits a phone, and nothing hangs over the edge', async (t) => {
  for (const width of [390, 768, 1280]) {
    const { page } = await open(t, tracker, { viewport: { width, height: 844 }, table: 'issue' });
    const widest = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(widest <= width, `${widest} of ${width} pixels`);
  }
});

test('the line for a terminal can be copied', async (t) => {
  const { page } = await open(t, files, { permissions: ['clipboard-read', 'clipboard-write'] });
  await page.getByRole('button', { name: 'Copy' }).click();
  await page.getByRole('button', { name: 'Copied' }).waitFor();
  assert.match(await page.evaluate(() => navigator.clipboard.readText()), /^psql 'postgres:\/\/postgres@.*files'$/);
});
