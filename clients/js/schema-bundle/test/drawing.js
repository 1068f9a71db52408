// A schema with the methods of one of tldraw's store, at a version: each is another release of an application.

const steps = [
  {
    version: 2,
    scope: "record",
    up: (shape) => ({ ...shape, color: "black" }),
    down: ({ color, ...shape }) => shape,
  },
  { version: 3, scope: "record", up: (shape) => ({ ...shape, text: shape.text.toUpperCase() }) },
  {
    version: 4,
    scope: "store",
    up: (store) => Object.fromEntries(Object.entries(store).filter(([, record]) => record.text !== "")),
  },
];

const type = (scope, defaults, check) => ({
  scope,
  create: (given) => ({ ...defaults, ...given }),
  validate(record) {
    if (!check(record)) throw new Error(`${record.id} is not valid`);
    return record;
  },
});

export function drawing(VERSION) {
  const since = (older) => {
    const from = older.sequences["com.example.shape"];
    if (from === undefined || from > VERSION) return { ok: false, error: "incompatible" };
    return { ok: true, value: steps.filter(({ version }) => version > from && version <= VERSION) };
  };
  const failed = (reason) => ({ type: "error", reason });
  return {
    types: {
      document: type("document", { typeName: "document", name: "" }, ({ name }) => typeof name === "string"),
      shape: type("document", { typeName: "shape", text: "" }, ({ text }) => typeof text === "string"),
      instance_presence: type("presence", { typeName: "instance_presence" }, () => true),
      camera: type("session", { typeName: "camera" }, () => true),
    },
    serialize: () => ({ schemaVersion: 2, sequences: { "com.example.shape": VERSION } }),
    getMigrationsSince: since,
    migratePersistedRecord(record, other, direction) {
      const found = since(other);
      if (!found.ok) return failed(found.error);
      if (record.typeName !== "shape") return { type: "success", value: record };
      const todo = direction === "up" ? found.value : found.value.toReversed();
      for (const step of todo) {
        if (step.scope !== "record" || !step[direction]) return failed("migration-error");
        record = step[direction](record);
      }
      return { type: "success", value: record };
    },
    migrateStoreSnapshot({ store, schema }) {
      const found = since(schema);
      if (!found.ok) return failed(found.error);
      for (const { scope, up } of found.value) {
        const each = ([id, record]) => [id, record.typeName === "shape" ? up(record) : record];
        store = scope === "store" ? up(store) : Object.fromEntries(Object.entries(store).map(each));
      }
      return { type: "success", value: store };
    },
  };
}
