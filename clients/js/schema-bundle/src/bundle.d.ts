/**
 * The text of a bundle: one module of JavaScript without imports, for a Rowtide server to run. `module` is the name of a package, or
 * a path to a file, that exports `schema`, or `createTLSchema`, or either as the default; both are looked for in `cwd` (default: the
 * process's own). Rejects with what is wrong with the module.
 */
export declare function bundle(module: string, cwd?: string): Promise<string>;

/** Tries a bundle on an empty document, and counts its types of records and its sequences of migrations. */
export declare function trial(text: string): Promise<{ types: number; sequences: number }>;
