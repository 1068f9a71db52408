// What every page is held to: nothing that axe finds, nothing wider than the screen, and focus that is seen, on a
// phone and on a desk, in light and in dark.

import assert from 'node:assert/strict';
import axe from 'axe-core';

const SCREENS = [
  { width: 390, height: 844 },
  { width: 1280, height: 800 },
];

/** Holds the page, as it is now, to it. */
export async function assertAccessible(page, what) {
  await page.evaluate(axe.source);
  for (const screen of SCREENS) {
    await page.setViewportSize(screen);
    for (const colorScheme of ['light', 'dark']) {
      await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
      const where = `${what}, ${screen.width} pixels, ${colorScheme}`;
      assert.deepEqual(await page.evaluate(violations), [], where);
    }
    const widest = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(widest <= screen.width, `${what}: ${widest} of ${screen.width} pixels`);
  }
}

/** Goes from stop to stop with Tab, to the last one; returns the names of the stops, and fails if one is not seen. */
export async function tabThrough(page) {
  const stops = [];
  await page.evaluate(() => {
    const { body } = document;
    body.tabIndex = -1;
    body.focus();
    body.removeAttribute('tabindex');
  });
  for (;;) {
    await page.keyboard.press('Tab');
    const stop = await page.evaluate(stopHere);
    if (!stop || stop.isAgain) return stops.map(({ name }) => name);
    assert.ok(stop.isSeen, `focus is not seen at ${stop.name}`);
    stops.push(stop);
  }
}

/** Runs in the page. */
async function violations() {
  const { violations: found } = await window.axe.run(document, { resultTypes: ['violations'] });
  return found.map(({ id, nodes }) => `${id}: ${nodes.map(({ html, failureSummary }) => `${html.slice(0, 200)} ${failureSummary}`).join('\n')}`);
}

/** Runs in the page. */
function stopHere() {
  const { activeElement } = document;
  if (!activeElement || activeElement === document.body) return null;
  const visited = (window.visited ??= new Set());
  const isAgain = visited.has(activeElement);
  visited.add(activeElement);
  const { width, height } = activeElement.getBoundingClientRect();
  const hasOutline = (node, pseudo) => {
    const { outlineStyle, outlineWidth } = getComputedStyle(node, pseudo);
    return outlineStyle !== 'none' && outlineWidth !== '0px';
  };
  // It is the element that is marked, or a frame around it.
  let isMarked = hasOutline(activeElement, '::after');
  for (let node = activeElement; node !== document.body && !isMarked; node = node.parentElement) {
    isMarked = hasOutline(node);
  }
  const name = activeElement.ariaLabel || activeElement.textContent.trim() || activeElement.id || activeElement.tagName;
  return { name, isAgain, isSeen: isMarked && width > 0 && height > 0 };
}
