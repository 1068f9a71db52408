// How tables are looked at: what is found, how wide it is, what can be undone and subscribed to, and by whom it can be used.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { assertAccessible, tabThrough } from '../accessible.js';
import { eventually } from '../kit.js';
import { files, hasText, numbers, open, tracker } from './site.js';

test('it is for everybody: also with a form open, a refusal and a deletion to undo', async (t) => {
  const { page, left } = await open(t, files, { table: 'file' });
  await left.write('f6', 'ownerName', 'Somebody');
  await hasText(left.notice, 'forbidden');
  await left.element.getByRole('button', { name: 'Delete row f7' }).click();
  await left.element.getByRole('button', { name: 'Undo' }).waitFor();
  const stops = await tabThrough(page);
  for (const name of ['Copy', 'Filter of Left', 'Undo', 'Insert row', 'Go offline']) assert.ok(stops.includes(name), `${name} in ${stops}`);
  await assertAccessible(page, 'the tables');
  await left.element.getByRole('button', { name: 'Insert row' }).click();
  await assertAccessible(page, 'the form');
});

test('the table that it opens on is in sight among the tabs', async (t) => {
  for (const width of [390, 1280]) {
    const { left } = await open(t, tracker, { viewport: { width, height: 844 } });
    const tab = left.element.getByRole('tab', { selected: true }).first();
    await hasText(tab, 'comment');
    const [inside, outside] = [await tab.boundingBox(), await left.element.getByRole('tablist', { name: 'Tables' }).boundingBox()];
    assert.ok(inside.x >= outside.x && inside.x + inside.width <= outside.x + outside.width, `${width}: ${JSON.stringify([inside, outside])}`);
    await left.element.getByLabel('Signed in as').waitFor();
  }
});

test('a deletion is undone, the latest first', async (t) => {
  const { page, left, right } = await open(t, files, { users: ['u4', 'u4'], table: 'file' });
  const name = await files.sql(`SELECT name FROM file WHERE id = 'f61'`);
  for (const key of ['f61', 'f62']) {
    await left.row(key).getByRole('button').click();
    await right.row(key).waitFor({ state: 'detached' });
  }
  await left.element.getByText('Deleted f62 of file, and 1 before it.').waitFor();
  await left.element.getByRole('button', { name: 'Undo' }).click();
  await right.row('f62').waitFor();
  assert.equal(await right.row('f61').count(), 0);
  // A key takes the other one back.
  await (await left.cell('f62', 'id')).focus();
  await page.keyboard.press('Control+z');
  await hasText(await right.cell('f61', 'name'), name);
  await left.element.getByRole('button', { name: 'Undo' }).waitFor({ state: 'hidden' });
  assert.equal(await files.sql(`SELECT count(*) FROM file WHERE id IN ('f61', 'f62')`), '2');
});

test('a filter finds rows by words and by columns, also those that come', async (t) => {
  const { left } = await open(t, files, { users: ['u3', 'u2'], table: 'file' });
  const count = (number) => eventually(`${number} rows`, async () => Number(await left.element.getByRole('grid').getAttribute('aria-rowcount')) === number + 1);
  const filter = left.element.getByRole('searchbox', { name: 'Filter of Left' });
  await left.row('f41').waitFor();
  await filter.fill('id=f41');
  await count(1);
  await hasText(left.element.locator('.shown'), /^1 of \d+$/);
  await filter.fill('"nothing of this" name');
  await count(0);
  await left.element.getByText('No row of file is found by the filter.').waitFor();
  await files.sql(`UPDATE file SET name = 'Nothing of this kind has a name' WHERE id = 'f41'`);
  await left.row('f41').waitFor();
  // A table has its own.
  await left.show('user');
  assert.equal(await filter.inputValue(), '');
  await left.show('file');
  assert.equal(await filter.inputValue(), '"nothing of this" name');
});

test('a column is made wider by dragging and by keys, and stays so', async (t) => {
  const { page, left } = await open(t, files, { table: 'file' });
  const header = left.element.getByRole('columnheader').filter({ hasText: 'name' }).first();
  const width = async () => Math.round((await header.boundingBox()).width);
  const before = await width();
  const grip = await header.locator('.grip').boundingBox();
  await page.mouse.move(grip.x + 5, grip.y + 10);
  await page.mouse.down();
  await page.mouse.move(grip.x + 105, grip.y + 10);
  await page.mouse.up();
  assert.equal(await width(), before + 100);
  assert.equal(await header.getAttribute('aria-sort'), 'none', 'it is not sorted by it');
  await header.focus();
  await page.keyboard.press('Shift+ArrowLeft');
  assert.equal(await width(), before + 76);
  await page.reload();
  await hasText(left.status, 'Live');
  await left.show('file');
  await eventually('it is remembered', async () => (await width()) === before + 76);
  await header.locator('.grip').dblclick();
  await eventually('it fits', async () => (await width()) !== before + 76);
});

test('whole numbers have all of their digits, and ids are in the order of their digits', async (t) => {
  const { page, left, right } = await open(t, numbers);
  const keys = ['9007199254740992', '9007199254740993', '9007199254740994', '9223372036854775807'];
  for (const key of keys) await hasText(await left.cell(key, 'number'), key);
  const shown = () => left.element.locator('.body .row').evaluateAll((rows) =>
    rows.sort((one, other) => one.ariaRowIndex - other.ariaRowIndex).map((row) => row.children[1].textContent));
  assert.deepEqual(await shown(), ['-9007199254740993', '5', ...keys]);
  await left.element.getByRole('tab', { name: /^Changes/ }).click();
  await left.write('9007199254740993', 'amount', '9007199254740995');
  await hasText(await right.cell('9007199254740993', 'amount'), '9007199254740995');
  await hasText(left.outcome, 'confirmed');
  assert.equal(await numbers.sql(`SELECT number FROM counted WHERE amount = 9007199254740995`), '9007199254740993');
  await left.element.getByRole('columnheader').filter({ hasText: 'id' }).click();
  const ids = await left.element.locator('.body .row').evaluateAll((rows) =>
    rows.sort((one, other) => one.ariaRowIndex - other.ariaRowIndex).map((row) => row.querySelector('.uuid').title));
  assert.deepEqual(ids, [...ids].sort());
});

test('one subscribes to a query, and its rows come and go', async (t) => {
  const { page, left, right } = await open(t, numbers);
  const drawer = left.element.locator('.drawer');
  const topic = drawer.getByRole('combobox', { name: /^topic/ });
  await left.show('entry');
  await left.element.getByText('Rows of entry come with subscriptions').waitFor();
  await topic.fill('many');
  await drawer.getByRole('button', { name: 'Subscribe' }).click();
  await drawer.getByRole('alert').filter({ hasText: 'topic: a whole number is expected' }).waitFor();
  await topic.fill('2');
  await topic.press('Enter');
  await drawer.getByRole('listitem').filter({ hasText: 'topic topic = 2' }).filter({ hasText: 'ready' }).waitFor();
  await hasText(await left.cell(2, 'words'), 'of 2');
  assert.equal(await left.row(1).count(), 0);
  assert.equal(await right.element.getByRole('tab', { name: /^entry 0/ }).count(), 1);
  await assertAccessible(page, 'a subscription');
  await drawer.getByRole('button', { name: 'Unsubscribe' }).click();
  await left.row(2).waitFor({ state: 'detached' });
  assert.equal(await drawer.getByRole('listitem').count(), 0);
});
