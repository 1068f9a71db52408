// Makes a bundle of an application's schema: one module of JavaScript without imports, whose exports are those that a
// server asks for. See contract.js for them.

import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

const CONTRACT = fileURLToPath(new URL("./contract.js", import.meta.url));

/** What is imported for its looks, which a schema does not have. */
const LOOKS = [".css", ".scss", ".svg", ".png", ".jpg", ".jpeg", ".gif", ".webp", ".woff", ".woff2"];

/**
 * The text of a bundle.
 *
 * @param {string} module the name of a package, as seen from `cwd`, or a path to a file: something that exports
 *   `schema`, or `createTLSchema`, or either as the default
 * @param {string} [cwd] where paths and packages are looked for
 */
export async function bundle(module, cwd = process.cwd()) {
  const path = resolve(cwd, module);
  const from = existsSync(path) ? path : module;
  const entry = `
    import * as application from ${JSON.stringify(from)};
    import { contract } from ${JSON.stringify(CONTRACT)};
    export const {
      serialize, types, newDocument, serves, migrate, migrateDocument, validate,
    } = contract(application);
  `;
  const built = await build({
    stdin: { contents: entry, resolveDir: cwd, sourcefile: "rowtide-schema-bundle" },
    bundle: true,
    write: false,
    format: "esm",
    platform: "browser",
    target: "es2022",
    charset: "utf8",
    minifySyntax: true,
    define: { "process.env.NODE_ENV": '"production"' },
    loader: Object.fromEntries(LOOKS.map((ending) => [ending, "empty"])),
    logLevel: "silent",
  }).catch((error) => {
    const said = (error.errors ?? []).map(({ text, location }) =>
      location ? `${location.file}:${location.line}: ${text}` : text,
    );
    throw new Error(said.join("\n") || error.message);
  });
  return built.outputFiles[0].text;
}

/**
 * Tries a bundle on an empty document, here where there is no DOM either.
 *
 * @param {string} text
 */
export async function trial(text) {
  const bundle = await import(`data:text/javascript;base64,${Buffer.from(text).toString("base64")}`);
  const schema = bundle.serialize();
  const records = bundle.newDocument();
  records.forEach(bundle.validate);
  if (!bundle.serves(schema)) throw new Error("the schema does not serve clients of itself");
  bundle.migrateDocument(records, schema);
  return { types: Object.keys(bundle.types()).length, sequences: Object.keys(schema.sequences ?? {}).length };
}
