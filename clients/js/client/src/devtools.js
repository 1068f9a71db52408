/**
 * A panel that shows developers what a client does. Nothing of it is there before `defineDevtools` is called, so a
 * bundler leaves it out where an application calls it in development alone.
 */
export { defineDevtools } from './devtools/panel.js';
