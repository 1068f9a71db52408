import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import { bundle, trial } from "@rowtide/schema-bundle";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const run = promisify(execFile);

let dir;
before(async () => (dir = await mkdtemp(join(tmpdir(), "rowtide-schema-bundle-"))));
after(() => rm(dir, { recursive: true }));

/** A bundle of a module with this text, and what it exports. */
async function made(name, text) {
  await writeFile(join(dir, name), text);
  const bundled = await bundle(`./${name}`, dir);
  return { bundled, ...(await import(`data:text/javascript,${encodeURIComponent(bundled)}`)) };
}

const drawing = (version) =>
  `import { drawing } from ${JSON.stringify(here("./drawing.js"))}; export const schema = drawing(${version});`;

const at = (version) => ({ schemaVersion: 2, sequences: { "com.example.shape": version } });
const shape = { id: "shape:a", typeName: "shape", text: "a" };

test("a bundle says what there is and what is valid", async () => {
  const { bundled, serialize, types, newDocument, validate } = await made("second.js", drawing(2));
  assert.doesNotMatch(bundled, /^import /m);
  assert.deepEqual(serialize(), at(2));
  assert.equal(types().camera, "session");
  assert.deepEqual(newDocument(), [{ id: "document:document", typeName: "document", name: "" }]);
  validate(shape);
  assert.throws(() => validate({ ...shape, text: 1 }), /not valid/);
  assert.throws(() => validate({ id: "other:a", typeName: "toString" }), /no type/);
});

test("records go both ways where each step does", async () => {
  const second = await made("second.js", drawing(2));
  assert.equal(second.serves(at(1)), true);
  assert.deepEqual(second.migrate(shape, at(1), "up"), { ...shape, color: "black" });
  assert.deepEqual(second.migrate({ ...shape, color: "red" }, at(1), "down"), shape);
  assert.equal(second.serves(at(3)), false);
  const third = await made("third.js", drawing(3));
  assert.equal(third.serves(at(2)), false);
  assert.throws(() => third.migrate(shape, at(2), "down"), /cannot be migrated/);
});

test("a whole document goes up, also by steps that see all of it", async () => {
  const { serves, migrateDocument } = await made("fourth.js", drawing(4));
  assert.equal(serves(at(3)), false);
  const empty = { id: "shape:b", typeName: "shape", text: "" };
  assert.deepEqual(migrateDocument([shape, empty], at(1)), [{ ...shape, color: "black", text: "A" }]);
  assert.throws(() => migrateDocument([shape], at(5)), /cannot be migrated/);
});

test("a schema is found under each of its names", async () => {
  const from = `import { drawing } from ${JSON.stringify(here("./drawing.js"))};`;
  for (const [n, text] of ["export default drawing(1)", "export const createTLSchema = () => drawing(1)",
    "export default () => drawing(1)"].entries()) {
    const { serialize } = await made(`found-${n}.js`, `${from} ${text}`);
    assert.deepEqual(serialize(), at(1));
  }
  const { newDocument } = await made("own.js", `${drawing(1)} export const newDocument = () => [];`);
  assert.deepEqual(newDocument(), []);
});

test("what is no schema is told of", async () => {
  await writeFile(join(dir, "none.js"), "export const other = 1;");
  await assert.rejects(bundle("./none.js", dir).then(trial), /exports no schema/);
  await writeFile(join(dir, "system.js"), "import 'node:fs';");
  await assert.rejects(bundle("./system.js", dir), /node:fs/);
  await assert.rejects(bundle("./missing.js", dir), /missing/);
  await writeFile(join(dir, "dom.js"), `document.title = "x"; ${drawing(1)}`);
  await assert.rejects(bundle("./dom.js", dir).then(trial), /document is not defined/);
});

test("the command writes the file", async () => {
  await writeFile(join(dir, "second.js"), drawing(2));
  const { stdout } = await run("node", [here("../src/cli.js"), "second.js", "-o", "out.js"], { cwd: dir });
  assert.match(stdout, /^out\.js: 4 types of records, 1 sequences/);
  assert.match(await readFile(join(dir, "out.js"), "utf8"), /export/);
  await assert.rejects(run("node", [here("../src/cli.js"), "second.js"], { cwd: dir }), /usage/);
});
