// A schema for tests, at a VERSION that they write over: each version of it is another release of an application.
export const VERSION = 3;

const SHAPE = "com.example.shape";
const steps = {
  2: {
    up: (shape) => ({ ...shape, props: { ...shape.props, color: "black" } }),
    down: (shape) => {
      const { color, ...props } = shape.props;
      return { ...shape, props };
    },
  },
  3: {
    up: ({ x, ...shape }) => ({ ...shape, position: { x } }),
    down: ({ position, ...shape }) => ({ ...shape, x: position.x }),
  },
  4: { up: (shape) => ({ ...shape, props: { ...shape.props, text: shape.props.text.toUpperCase() } }) },
};

const versionOf = (schema) => schema.sequences[SHAPE] ?? 1;

export const serialize = () => ({ schemaVersion: 2, sequences: { "com.example.store": 1, [SHAPE]: VERSION } });

export const types = () => ({
  document: "document",
  page: "document",
  shape: "document",
  instance_presence: "presence",
  camera: "session",
});

export const newDocument = () => [
  { id: "document:document", typeName: "document", name: "", meta: {} },
  { id: "page:page", typeName: "page", name: "Page 1", meta: {} },
];

export const serves = (schema) => {
  for (let n = versionOf(schema) + 1; n <= VERSION; n++) if (!steps[n].down) return false;
  return true;
};

export const migrate = (record, schema, direction) => {
  if (record.typeName !== "shape") return record;
  if (direction === "up") {
    for (let n = versionOf(schema) + 1; n <= VERSION; n++) record = steps[n].up(record);
  } else {
    for (let n = VERSION; n > versionOf(schema); n--) record = steps[n].down(record);
  }
  return record;
};

export const migrateDocument = (records, schema) => records.map((record) => migrate(record, schema, "up"));

const expect = (fine, what) => {
  if (!fine) throw new Error(what);
};

export const validate = (record) => {
  if (record.typeName === "instance_presence" || record.typeName === "page") return;
  if (record.typeName === "document") return expect(typeof record.name === "string", "a document has a name");
  expect(record.typeName === "shape", "an unknown type");
  const { props } = record;
  expect(typeof props.text === "string" && Array.isArray(props.points), "a shape has text and points");
  const x = VERSION >= 3 ? record.position.x : record.x;
  expect(Number.isFinite(x) && x >= 0, "a shape is somewhere");
  if (VERSION >= 2) expect(["black", "red", "blue"].includes(props.color), "a shape has a color");
  switch (props.text) {
    case "endless": for (;;);
    case "memory": {
      const all = [];
      for (;;) all.push(new Array(1000).fill(all.length));
    }
    case "deep": {
      const deeper = (n) => deeper(n + 1) + 1;
      return deeper(0);
    }
    case "slow": {
      const until = Date.now() + 30;
      while (Date.now() < until);
      break;
    }
    case "throws": throw { message: "anything" };
    case "pollutes": Object.prototype.polluted = true;
  }
  if (props.junk) expect(!{}.polluted && !props.junk.polluted, "polluted");
};
