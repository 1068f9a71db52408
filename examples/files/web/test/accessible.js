// That the pages are for everybody: on a phone and on a desk, in light and in dark, with the keyboard alone.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { assertAccessible, tabThrough } from '../../../../clients/js/test/accessible.js';
import { open, signIn } from './site.js';

test('signing in, the list and what opens over it are for everybody', async (t) => {
  const out = await open(t);
  await out.page.getByLabel('The id of a user').waitFor();
  await assertAccessible(out.page, 'signing in');
  await tabThrough(out.page);
  const { page } = await signIn(t, 'u5');
  await page.getByRole('button', { name: /^Mine/ }).click();
  const first = page.getByRole('list', { name: 'Files' }).getByRole('listitem').first();
  await first.waitFor();
  await assertAccessible(page, 'the list');
  const stops = await tabThrough(page);
  assert.ok(stops.length > 10, `${stops}`);
  const actions = first.getByRole('button', { name: /^Actions for/ });
  await actions.focus();
  await page.keyboard.press('Enter');
  await page.getByRole('menuitem').first().waitFor();
  await assertAccessible(page, 'the menu');
  await page.keyboard.press('Escape');
  await page.getByRole('menuitem').first().waitFor({ state: 'detached' });
  await actions.press('Enter');
  await page.getByRole('menuitem', { name: 'Share' }).press('Enter');
  await page.getByRole('dialog').waitFor();
  await assertAccessible(page, 'sharing');
});

test('the board is for everybody', async (t) => {
  const { page } = await signIn(t, 'u21', { to: '#/file/f410' });
  await page.getByRole('toolbar', { name: 'Tools' }).waitFor();
  await assertAccessible(page, 'the board');
  await tabThrough(page);
});
