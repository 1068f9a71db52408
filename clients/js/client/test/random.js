/**
 * Random numbers that a seed repeats.
 * @param {number} seed
 */
export function random(seed) {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  return {
    next,
    /** One of 0 to `count - 1`. @param {number} count */
    below: (count) => Math.floor(next() * count),
    /** @param {number} share */
    chance: (share) => next() < share,
  };
}
