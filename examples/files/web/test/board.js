// The board as people have it: several of them at one drawing, in a real browser, over a real server.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { eventually } from '../../../../clients/js/test/kit.js';
import { one, open, server, signIn } from './site.js';

/** A window in which `user` has a file open, with a line to the drawing that can be cut. */
async function openFile(t, user, id, options = {}) {
  const signedIn = await signIn(t, user, { to: `#/file/${id}`, ...options });
  return { ...signedIn, ...at(signedIn.page) };
}

/** What one does and sees at the board. */
function at(page) {
  const surface = page.getByRole('application', { name: 'Drawing' });
  const shapes = (kind) => surface.locator(kind === undefined ? '.shape' : `.shape.${kind}`);
  const sees = (kind, count) => eventually(`${count} of ${kind}`, async () => (await shapes(kind).count()) === count);
  const drag = async (from, to) => {
    const box = await surface.boundingBox();
    await page.mouse.move(box.x + from[0], box.y + from[1]);
    await page.mouse.down();
    await page.mouse.move(box.x + (from[0] + to[0]) / 2, box.y + (from[1] + to[1]) / 2);
    await page.mouse.move(box.x + to[0], box.y + to[1]);
    await page.mouse.up();
  };
  const isReady = () => page.getByRole('toolbar', { name: 'Tools' }).waitFor();
  const use = (name) => page.getByRole('toolbar').getByRole('button', { name, exact: true }).click();
  const draw = async (name, from, to) => {
    await use(name);
    await drag(from, to);
  };
  const write = async (text) => {
    await page.getByRole('textbox', { name: 'Text', exact: true }).fill(text);
    await page.keyboard.press('Escape');
  };
  /** Where the first shape of a kind is, and how large. */
  const place = (kind) => shapes(kind).first().getAttribute('transform');
  return { surface, shapes, sees, drag, isReady, use, draw, write, place };
}

const people = (page) => page.getByRole('list', { name: 'Who is here' });

/** The middle of the first shape of a kind, within the surface. */
async function middleOf({ shapes, surface }, kind) {
  const [box, around] = [await shapes(kind).first().boundingBox(), await surface.boundingBox()];
  return { x: box.x - around.x + box.width / 2, y: box.y - around.y + box.height / 2 };
}

// Two at a time: they mostly wait, one of them for the server to save.
describe('the board', { concurrency: 2 }, () => {
  test('two people draw, and each sees what the other does, and where they point', async (t) => {
    // A file that is shared for editing; its owner comes from the list.
    const [ada, ben] = [await signIn(t, 'u21'), await openFile(t, 'u22', 'f410')];
    Object.assign(ada, at(ada.page));
    await ada.page.getByRole('link', { name: await one(`SELECT name FROM file WHERE id = 'f410'`), exact: true }).click();
    await Promise.all([ada.isReady(), ben.isReady()]);
    await ada.draw('Rectangle', [200, 100], [360, 200]);
    await ben.sees('rectangle', 1);
    await ben.draw('Arrow', [400, 150], [600, 150]);
    await ben.use('Text');
    await ben.surface.click({ position: { x: 300, y: 300 } });
    await ben.write('Hello');
    await ben.draw('Draw', [300, 400], [500, 450]);
    for (const kind of ['rectangle', 'arrow', 'text', 'draw']) await ada.sees(kind, 1);
    await ada.surface.getByText('Hello').waitFor();
    // Each sees the other's name at their cursor, and among those who are there.
    const name = await one(`SELECT name FROM "user" WHERE id = 'u22'`);
    await ada.page.locator('.cursor').getByText(name).waitFor();
    await people(ada.page).getByText(name).waitFor();
    // What one undoes is one's own, and the other's stays.
    await ada.use('Undo');
    await ben.sees('rectangle', 0);
    await ben.sees('arrow', 1);
    await ada.use('Redo');
    await ben.sees('rectangle', 1);
    // Both change one shape: one moves it while the other paints it.
    await ada.use('Select');
    const drawn = await ada.place('rectangle');
    await ada.drag([280, 150], [290, 250]);
    await ben.use('Select');
    await eventually('it was moved', async () => {
      const [here, there] = [await ada.place('rectangle'), await ben.place('rectangle')];
      return here === there && here !== drawn;
    });
    await ben.surface.click({ position: await middleOf(ben, 'rectangle') });
    await ben.use('Red');
    await eventually('it is red', async () => (await ada.shapes('rectangle').getAttribute('style')).includes('red'));
    await ben.page.keyboard.press('Delete');
    await ada.sees('rectangle', 0);
    await ben.page.getByRole('link', { name: 'Back to the files' }).click();
    await people(ada.page).getByText(name).waitFor({ state: 'detached' });
  });

  test('who may only look sees it and cannot draw, and what they may changes at once', async (t) => {
    const [owner, guest] = [await openFile(t, 'u23', 'f445'), await openFile(t, 'u24', 'f445')];
    await owner.isReady();
    await owner.draw('Rectangle', [200, 100], [360, 200]);
    await guest.sees('rectangle', 1);
    await guest.page.getByText('View only').waitFor();
    assert.equal(await guest.page.getByRole('toolbar').count(), 0);
    const before = await guest.place('rectangle');
    await guest.surface.focus();
    for (const key of ['r', 'Enter', 'Control+a', 'Delete', 'Control+d']) await guest.page.keyboard.press(key);
    // The drawing moves under the hand; nothing in it does.
    await guest.drag([280, 150], [380, 250]);
    assert.equal(await guest.place('rectangle'), before);
    await owner.sees('rectangle', 1);
    one(`UPDATE file SET "sharedLinkType" = 'edit' WHERE id = 'f445'`);
    await guest.isReady();
    await guest.draw('Arrow', [100, 300], [200, 300]);
    await owner.sees('arrow', 1);
    one(`UPDATE file SET shared = false WHERE id = 'f445'`);
    await guest.page.getByText('This file is not shared with you').waitFor();
    one(`UPDATE file SET shared = true WHERE id = 'f445'`);
    await eventually('it is open again', async () => {
      if (await guest.page.getByRole('toolbar').isVisible()) return true;
      const again = guest.page.getByRole('button', { name: 'Try again' });
      if (await again.isVisible()) await again.click();
      return false;
    });
    await guest.sees('arrow', 1);
    one(`UPDATE file SET "isDeleted" = true WHERE id = 'f445'`);
    await guest.page.getByText('This file is gone').waitFor();
  });

  test('what is drawn offline comes when one is back, and a reload keeps all of it', async (t) => {
    const { page } = await signIn(t, 'u25');
    const board = at(page);
    let isCut = false;
    const sockets = new Set();
    await page.routeWebSocket(/\/app\/file\//, (socket) => {
      if (isCut) return void socket.close();
      sockets.add(socket);
      return void socket.connectToServer();
    });
    await page.goto(`${page.url().split('#')[0]}#/file/f481`);
    await board.isReady();
    await board.draw('Rectangle', [200, 100], [360, 200]);
    const other = await openFile(t, 'u25', 'f481');
    await other.isReady();
    await other.sees('rectangle', 1);
    isCut = true;
    for (const socket of sockets) socket.close();
    await page.getByText('You are offline.').waitFor();
    await board.draw('Arrow', [400, 150], [600, 150]);
    await page.getByText('is kept as long as this page stays open').waitFor();
    // Meanwhile others go on.
    await other.draw('Rectangle', [200, 300], [360, 400]);
    assert.equal(await other.shapes('arrow').count(), 0);
    isCut = false;
    await other.sees('arrow', 1);
    await board.sees('rectangle', 2);
    await page.getByText('You are offline.').waitFor({ state: 'detached' });
    await page.reload();
    await board.sees('rectangle', 2);
    await board.sees('arrow', 1);
    await eventually('the row says that something is there', () => one(`SELECT "isEmpty" FROM file WHERE id = 'f481'`) === 'f');
  });

  test('one draws with the keyboard alone, and with a finger on a phone', async (t) => {
    const { page, isReady, sees, surface, shapes, place, write } = await openFile(t, 'u26', 'f501');
    await isReady();
    await surface.focus();
    await page.keyboard.press('r');
    await page.keyboard.press('Enter');
    await sees('rectangle', 1);
    const before = await place('rectangle');
    await page.keyboard.press('Shift+ArrowRight');
    await eventually('it moves', async () => (await place('rectangle')) !== before);
    await page.keyboard.press('Control+z');
    await eventually('it is back', async () => (await place('rectangle')) === before);
    await page.keyboard.press('Enter');
    await write('Named');
    await shapes('rectangle').getByText('Named').waitFor();
    await page.keyboard.press('Control+d');
    await sees('rectangle', 2);
    await page.keyboard.press('Delete');
    await sees('rectangle', 1);

    const phone = await openFile(t, 'u26', 'f501', { viewport: { width: 390, height: 760 }, hasTouch: true, isMobile: true });
    await phone.isReady();
    await phone.use('Arrow');
    await phone.page.touchscreen.tap(195, 300);
    await sees('arrow', 1);
    await phone.use('Delete');
    await sees('arrow', 0);
    assert.ok((await phone.page.evaluate(() => document.documentElement.scrollWidth)) <= 390);
  });

  test('a drawing is published for everybody with the link, until it is not', async (t) => {
    const { page, isReady, draw, sees } = await openFile(t, 'u27', 'f521');
    await isReady();
    await draw('Rectangle', [200, 100], [360, 200]);
    await sees('rectangle', 1);
    await page.getByRole('button', { name: 'More' }).click();
    await page.getByRole('menuitem', { name: 'Publish' }).click();
    await page.getByRole('button', { name: 'Publish', exact: true }).click();
    await page.getByText('It is public.').waitFor();
    const link = await page.getByLabel('Link to the public page').inputValue();
    // The page says so before there is a copy, and whoever comes looks for that a few times.
    const status = async () => (await fetch(`${server.url}/app/publish/${one(`SELECT "publishedSlug" FROM file WHERE id = 'f521'`)}`)).status;
    await eventually('there is a copy', async () => (await status()) === 200);
    // Nobody is signed in there.
    const visitor = await open(t, new URL(link).hash);
    const still = visitor.page.getByRole('group', { name: 'Published drawing' });
    await still.locator('.shape.rectangle').waitFor();
    assert.equal(await visitor.page.getByRole('toolbar').count(), 0);
    await page.getByRole('button', { name: 'Unpublish' }).click();
    await page.getByRole('button', { name: 'Publish', exact: true }).waitFor();
    await eventually('it is taken back', async () => (await status()) === 404);
    await visitor.page.reload();
    await visitor.page.getByText('Nothing is published here').waitFor();
  });

  test('an older version is looked at and restored, for everybody who is there', async (t) => {
    // A document takes the name of its row when it is opened, and that is saved. The next version is kept a minute later, so the
    // first one is to be of the rectangle: this document has the name of its row already.
    await one(`UPDATE file SET name = '' WHERE id = 'f550'`);
    const [owner, guest] = [await openFile(t, 'u28', 'f550'), await openFile(t, 'u29', 'f550')];
    await owner.isReady();
    await owner.draw('Rectangle', [200, 100], [360, 200]);
    await guest.sees('rectangle', 1);
    const ask = async (path) => {
      const authorization = `Bearer ${server.token('u28')}`;
      const response = await fetch(`${server.url}/app/file/f550/history${path}`, { headers: { authorization } });
      return response.text();
    };
    const isKept = async () => {
      // An error, as long as there is no document.
      const times = JSON.parse(await ask(''));
      return times.length > 0 && (await ask(`/${times[0]}`)).includes('"rectangle"');
    };
    await eventually('a version of the rectangle is kept', isKept);
    await owner.draw('Arrow', [400, 150], [600, 150]);
    await guest.sees('arrow', 1);
    await owner.page.getByRole('button', { name: 'More' }).click();
    await owner.page.getByRole('menuitem', { name: 'Older versions' }).click();
    const preview = owner.page.getByRole('group', { name: 'The version' });
    await preview.locator('.shape.rectangle').waitFor();
    assert.equal(await preview.locator('.shape.arrow').count(), 0);
    await owner.page.getByRole('button', { name: 'Restore this version' }).click();
    for (const { sees } of [owner, guest]) {
      await sees('arrow', 0);
      await sees('rectangle', 1);
    }
    // And one goes on from there.
    await owner.draw('Arrow', [400, 250], [600, 250]);
    await guest.sees('arrow', 1);
  });
});
