// Makes the pictures in docs/images, of the playground and of the application over it:
// `node scripts/screenshots.js`, after `make test-js`.

import { mkdir } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { Server, launch, wire } from '../clients/js/test/kit.js';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const IMAGES = join(ROOT, 'docs/images');
const APP = join(ROOT, 'examples/files/web');

const WIDE = { viewport: { width: 1280, height: 800 } };
const PHONE = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, hasTouch: true };

const site = await Server.start();
const tracker = await Server.start('--example', 'tracker');
process.env.SYNC_SERVER = site.url;
const vite = createRequire(join(APP, 'package.json')).resolve('vite');
const { build, preview } = await import(pathToFileURL(vite));
await build({ root: APP, logLevel: 'error' });
const app = await preview({ root: APP, logLevel: 'error', preview: { host: '127.0.0.1', port: 0 } });
const browser = await launch();
await mkdir(IMAGES, { recursive: true });

/** A picture of a page once `scene` has set it. */
async function picture(name, url, options, scene) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  const line = await wire(page);
  await page.goto(url);
  await scene(page, line);
  await page.screenshot({ path: join(IMAGES, `${name}.png`) });
  await context.close();
}

async function people(page) {
  const sides = ['Left', 'Right'].map((name) => page.getByRole('region', { name }));
  for (const side of sides) {
    await side.locator('.status.live').waitFor();
    await side.locator('.body .row').first().waitFor();
  }
  return sides;
}

const cell = (side, key, index) => side.locator(`.body [data-key='${JSON.stringify([key])}'] [data-column="${index}"]`);
const NAME = 2;
const OWNER_NAME = 4;

async function write(page, target, text) {
  await target.click();
  await page.keyboard.press('Enter');
  await page.keyboard.press('Control+A');
  await page.keyboard.type(text);
  await page.keyboard.press('Enter');
}

const outcome = (side, text) => side.locator('.changes li').first().filter({ hasText: text }).waitFor();

try {
  await picture('playground', site.url, { ...WIDE, colorScheme: 'light' }, async (page) => {
    const [left, right] = await people(page);
    await right.getByRole('tab', { name: /^Messages/ }).click();
    await write(page, cell(left, 'f2', OWNER_NAME), 'Somebody else');
    await outcome(left, 'forbidden');
    await write(page, cell(left, 'f5', NAME), 'Launch plan');
    await outcome(left, 'confirmed');
    await cell(right, 'f5', NAME).filter({ hasText: 'Launch plan' }).waitFor();
  });
  await picture('playground-dark', tracker.url, { ...WIDE, colorScheme: 'dark' }, async (page) => {
    const [left, right] = await people(page);
    for (const side of [left, right]) await side.getByRole('tab', { name: /^issue \d/ }).click();
    await right.getByRole('button', { name: 'Go offline' }).click();
    const issue = (number) => `00000000-0000-4000-a000-00000000000${number}`;
    await write(page, cell(right, issue(2), 3), 'Written offline');
    await write(page, cell(left, issue(4), 3), 'Ship it');
    await outcome(left, 'confirmed');
    await cell(left, issue(4), 4).click();
    await page.keyboard.press('Enter');
    await page.getByRole('combobox', { name: 'status' }).selectOption('doing');
    await page.keyboard.press('Enter');
    await outcome(left, 'confirmed');
  });
  await picture('playground-phone', site.url, { ...PHONE, colorScheme: 'dark' }, async (page) => {
    const [left, right] = await people(page);
    await write(page, cell(left, 'f5', NAME), 'Seen by both');
    await cell(right, 'f5', NAME).filter({ hasText: 'Seen by both' }).waitFor();
    await page.evaluate(() => scrollTo(0, 0));
  });

  const files = app.resolvedUrls.local[0];
  const signIn = async (page, user) => {
    await page.getByRole('button', { name: user, exact: true }).click();
    await page.getByRole('list', { name: 'Files' }).getByRole('listitem').first().waitFor();
  };
  const act = async (page, name, action) => {
    await page.getByRole('button', { name: `Actions for ${name}`, exact: true }).click();
    await page.getByRole('menuitem', { name: action }).click();
  };
  await picture('files', files, { ...WIDE, colorScheme: 'light' }, async (page) => {
    await signIn(page, 'u2');
    await act(page, 'Sketch 36', 'Delete');
    await page.getByRole('button', { name: 'Actions for Map 30' }).click();
    await page.evaluate(() => Promise.all(document.getAnimations().map((animation) => animation.finished)));
  });
  await picture('files-dark', files, { ...WIDE, colorScheme: 'dark' }, async (page) => {
    await signIn(page, 'u2');
    await act(page, 'Map 30', 'Share');
  });
  await picture('files-phone', files, { ...PHONE, colorScheme: 'light' }, async (page, line) => {
    await signIn(page, 'u2');
    line.cut();
    await act(page, 'Notes 33', 'Rename');
    await page.keyboard.type('Written offline');
    await page.keyboard.press('Enter');
    await page.getByText('1 change is kept').waitFor();
  });
  // Two people draw: the one of the picture, and one whose cursor is in it.
  await picture('board', files, { ...WIDE, colorScheme: 'light' }, async (page) => {
    await signIn(page, 'u2');
    await page.getByRole('link', { name: 'Map 30', exact: true }).click();
    await page.getByRole('toolbar').waitFor();
    const drag = async (where, tool, from, to) => {
      await where.getByRole('toolbar').getByRole('button', { name: tool, exact: true }).click();
      await where.mouse.move(...from);
      await where.mouse.down();
      await where.mouse.move((from[0] + to[0]) / 2, (from[1] + to[1]) / 2);
      await where.mouse.move(...to);
      await where.mouse.up();
    };
    const write = async (text) => {
      await page.keyboard.press('Enter');
      await page.keyboard.type(text);
      await page.keyboard.press('Escape');
    };
    const paint = (color) => page.getByRole('button', { name: color, exact: true }).click();
    await paint('Blue');
    for (const [x, text] of [[190, 'Postgres'], [560, 'Rowtide'], [930, 'Everyone who has it open']]) {
      await drag(page, 'Rectangle', [x, 300], [x + 190, 400]);
      await page.getByRole('application').focus();
      await write(text);
    }
    await page.keyboard.press('Escape');
    await paint('Ink');
    await drag(page, 'Arrow', [392, 350], [548, 350]);
    await drag(page, 'Arrow', [762, 350], [918, 350]);
    await page.getByRole('button', { name: 'Text', exact: true }).click();
    await page.mouse.click(190, 210);
    await page.keyboard.type('How a change comes to everyone');
    await page.keyboard.press('Escape');
    await page.keyboard.press('Escape');
    const context = await browser.newContext(WIDE);
    const guest = await context.newPage();
    await guest.goto(`${files}#/file/f30`);
    await guest.getByLabel('The id of a user').fill('u16');
    await guest.getByRole('button', { name: 'Sign in' }).click();
    await guest.getByRole('toolbar').waitFor();
    await guest.locator('.shape.text').waitFor();
    await guest.getByRole('toolbar').getByRole('button', { name: 'Violet', exact: true }).click();
    await guest.getByRole('toolbar').getByRole('button', { name: 'Draw', exact: true }).click();
    const box = await guest.locator('.shape.rectangle').nth(1).boundingBox();
    const [x, y] = [box.x + 20, box.y + 140];
    await guest.mouse.move(x, y);
    await guest.mouse.down();
    for (let step = 1; step <= 50; step += 1) await guest.mouse.move(x + step * 3, y - Math.sin(step / 4) * 14);
    await guest.mouse.up();
    await page.locator('.shape.draw').waitFor();
    await page.locator('.cursor').waitFor();
    await guest.mouse.move(x + 170, y + 20);
    await page.evaluate(() => new Promise((resolve) => setTimeout(resolve, 500)));
  });
} finally {
  await browser.close();
  await app.close();
  await Promise.all([site.end(), tracker.end()]);
}
