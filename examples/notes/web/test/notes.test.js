// Notes as people have them: built, in real browsers, with Yjs and y-websocket as they come from npm, over a real server.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { build, preview } from 'vite';
import { assertAccessible, tabThrough } from '../../../../clients/js/test/accessible.js';
import { PATIENCE, Server, eventually, launch } from '../../../../clients/js/test/kit.js';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const EXAMPLE = fileURLToPath(new URL('../..', import.meta.url));

const running = [];
let browser;
let server;
let app;

before(async () => {
  const example = ['--definition', `${EXAMPLE}rowtide.toml`, '--migrations', `${EXAMPLE}migrations`];
  [browser, server] = await Promise.all([launch(), Server.start(...example), build({ root: ROOT, logLevel: 'error' })]);
  process.env.SYNC_SERVER = server.url;
  const served = await preview({ root: ROOT, logLevel: 'silent', preview: { host: '127.0.0.1', port: 0 } });
  app = served.resolvedUrls.local[0];
  running.push(() => browser.close(), () => served.close(), () => server.end());
});

after(() => Promise.all(running.map((stop) => stop())));

/** A window of its own in which `who` has a note open. */
async function open(t, who, title) {
  const context = await browser.newContext();
  context.setDefaultTimeout(PATIENCE);
  const page = await context.newPage();
  const errors = [];
  page.on('pageerror', (error) => errors.push(error.stack));
  t.after(async () => {
    await context.close();
    assert.deepEqual(errors, []);
  });
  await page.goto(app);
  await page.getByRole('button', { name: who, exact: true }).click();
  await page.getByRole('button', { name: title, exact: true }).click();
  const text = page.getByLabel('Text of the note');
  const status = page.getByRole('status');
  // Without the cursors of others, which have their names on them.
  const written = () =>
    text.evaluate((node) => {
      const copy = node.cloneNode(true);
      copy.querySelectorAll('.cm-ySelectionCaret').forEach((caret) => caret.remove());
      return copy.textContent;
    });
  const says = (words) => eventually(`${who} reads: ${words}`, async () => (await written()).includes(words));
  const told = (words) => eventually(`${who} is told: ${words}`, async () => (await status.innerText()).includes(words));
  const write = async (words) => {
    await text.click();
    await page.keyboard.press('Control+End');
    await page.keyboard.type(words);
  };
  return { page, text, says, told, write };
}

test('it is for everybody: on a phone and on a desk, in light and in dark, with the keyboard alone', async (t) => {
  const ben = await open(t, 'ben', 'What to plant in spring');
  const ada = await open(t, 'ada', 'What to plant in spring');
  await ada.told('Everyone sees');
  await assertAccessible(ada.page, 'a note');
  const stops = await tabThrough(ada.page);
  for (const name of ['What to plant in spring', 'Text of the note']) assert.ok(stops.includes(name), `${name} in ${stops}`);
  await ben.page.getByRole('button', { name: 'Sign out ben' }).press('Enter');
  await ben.page.getByRole('button', { name: 'ada', exact: true }).waitFor();
  await assertAccessible(ben.page, 'signing in');
  await tabThrough(ben.page);
  await ben.page.getByRole('button', { name: 'ada', exact: true }).press('Enter');
  await ben.page.getByRole('button', { name: 'Sign out ada' }).waitFor();
  await assertAccessible(ben.page, 'the list');
});

test('two people write one text, and a third reads it', async (t) => {
  const [ada, ben, cleo] = [
    await open(t, 'ada', 'What to plant in spring'),
    await open(t, 'ben', 'What to plant in spring'),
    await open(t, 'cleo', 'What to plant in spring'),
  ];
  await ada.told('Everyone sees what you write.');
  await ada.write('Beans, ');
  await ben.says('Beans, ');
  await ben.write('peas ');
  for (const one of [ada, ben, cleo]) await one.says('Beans, peas');
  await cleo.told('You may read this note.');
  assert.equal(await cleo.text.getAttribute('contenteditable'), 'false');
  const here = ada.page.getByRole('list', { name: 'Who is here' }).getByRole('listitem');
  await eventually('all three are shown', async () => (await here.allInnerTexts()).join() === 'ada,ben,cleo');
});

test('who loses the membership is out of the note at once, and who gets it is in', async (t) => {
  const [ben, dora] = [await open(t, 'ben', 'Bread'), await open(t, 'dora', 'Bread')];
  await ben.told('Everyone sees');
  await dora.told('Everyone sees');
  await ben.write('Flour');
  await dora.says('Flour');
  server.sql(`UPDATE member SET role = 'reader' WHERE person_id = 'dora'`);
  await dora.told('You may read this note.');
  await ben.write(', water');
  await dora.says('Flour, water');
  server.sql(`DELETE FROM member WHERE person_id = 'dora'`);
  await dora.told('You may not read this note any more.');
  server.sql(`INSERT INTO member VALUES ('kitchen', 'dora', 'editor')`);
  await dora.page.getByRole('button', { name: 'Bread', exact: true }).click();
  await dora.says('Flour, water');
});

test('what was written is there after the server has begun anew, and the row says when it was saved', async (t) => {
  const ada = await open(t, 'ada', 'Tools to mend');
  await ada.told('Everyone sees');
  await ada.write('The rake');
  const ben = await open(t, 'ben', 'Tools to mend');
  await ben.says('The rake');
  await server.stop();
  await ada.told('Offline');
  await ada.write(' and the spade');
  await server.start();
  await ben.says('The rake and the spade');
  await eventually('the row says so', () => server.sql(`SELECT saved_at IS NOT NULL FROM note WHERE id = 'tools'`) === 't');
});
