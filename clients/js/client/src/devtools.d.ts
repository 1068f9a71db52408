import type { Client } from './index.js';

/** The panel. Give it a client as early as possible: it shows the messages and subscriptions that it has seen. */
export interface RowtideDevtools extends HTMLElement {
  client: Client<any, any> | undefined;
}

/** Registers the element, once; `<rowtide-devtools>` unless it is given another name. Does nothing where there is no DOM. */
export declare function defineDevtools(name?: string): void;

declare global {
  interface HTMLElementTagNameMap {
    'rowtide-devtools': RowtideDevtools;
  }
}
