// What a server asks of a schema, said with what a schema of tldraw's store has. It becomes a part of the bundle.

const NEEDED = ["serialize", "getMigrationsSince", "migratePersistedRecord", "migrateStoreSnapshot"];

const isSchema = (value) =>
  typeof value === "object" && value !== null && typeof value.types === "object" &&
  NEEDED.every((name) => typeof value[name] === "function");

/** The schema that a module exports. */
function schemaOf(application) {
  for (const exported of [application.schema, application.default, application.createTLSchema]) {
    if (isSchema(exported)) return exported;
    if (typeof exported === "function") {
      const made = exported();
      if (isSchema(made)) return made;
    }
  }
  throw new Error("the module exports no schema: neither `schema`, nor `createTLSchema`, nor a default that is one");
}

/** A bundle's exports. */
export function contract(application) {
  const schema = schemaOf(application);
  const value = (result) => {
    if (result.type === "error") throw new Error(`it cannot be migrated: ${result.reason}`);
    return result.value;
  };
  return {
    /** The schema's version: `{schemaVersion, sequences}`. */
    serialize: () => schema.serialize(),

    /** The scope of each type of records: "document", "presence" or "session". */
    types: () => Object.fromEntries(Object.entries(schema.types).map(([name, type]) => [name, type.scope])),

    /** The records of a document that nobody has edited. The module may say so itself. */
    newDocument() {
      if (typeof application.newDocument === "function") return application.newDocument();
      const { document, page } = schema.types;
      return [
        document?.create({ id: "document:document" }),
        page?.create({ id: "page:page", name: "Page 1", index: "a1" }),
      ].filter((record) => record !== undefined);
    },

    /** Whether records can be brought to an older schema and back, one by one. */
    serves(older) {
      const since = schema.getMigrationsSince(older);
      return since.ok && since.value.every(({ scope, down }) => scope === "record" && typeof down === "function");
    },

    /** A record of another schema in this one ("up"), or one of this one in another ("down"). */
    migrate: (record, other, direction) => value(schema.migratePersistedRecord(record, other, direction)),

    /** All records of a document of an older schema, in this one. */
    migrateDocument(records, older) {
      const store = Object.fromEntries(records.map((record) => [record.id, record]));
      return Object.values(value(schema.migrateStoreSnapshot({ store, schema: older })));
    },

    /** Throws if a record is not valid. */
    validate(record) {
      const type = Object.hasOwn(schema.types, record.typeName) ? schema.types[record.typeName] : undefined;
      if (type === undefined) throw new Error(`there is no type ${record.typeName}`);
      type.validate(record);
    },
  };
}
