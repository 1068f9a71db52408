#!/usr/bin/env node
// rowtide-schema-bundle MODULE -o FILE.js

import { writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";

import { bundle, trial } from "./bundle.js";

const USAGE = "rowtide-schema-bundle MODULE -o FILE.js";

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { output: { type: "string", short: "o" }, help: { type: "boolean", short: "h" } },
  });
  if (values.help) return console.log(USAGE);
  if (positionals.length !== 1 || !values.output) throw new Error(`usage: ${USAGE}`);
  const text = await bundle(positionals[0]);
  const { types, sequences } = await trial(text);
  await writeFile(values.output, text);
  console.log(`${values.output}: ${types} types of records, ${sequences} sequences, ${text.length} characters`);
}

main().catch((error) => {
  console.error(`rowtide-schema-bundle: ${error.message}`);
  process.exitCode = 1;
});
