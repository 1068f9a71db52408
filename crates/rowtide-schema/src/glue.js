// What stands between the server and a bundle. It runs before the bundle does, and keeps what it needs of the
// language; then it is given the bundle's exports, and gives back what describes them and what answers questions.
"use strict";
(() => {
  const { parse, stringify } = JSON;
  const { isArray } = Array;
  const { keys, hasOwn, preventExtensions, getPrototypeOf } = Object;
  const Internal = InternalError;
  const TooDeep = RangeError;

  const FUNCTIONS = ["serialize", "types", "newDocument", "serves", "migrate", "migrateDocument", "validate"];
  const SCOPES = ["document", "presence", "session"];

  const isObject = (value) => typeof value === "object" && value !== null && !isArray(value);
  const isRecord = (value) => isObject(value) && typeof value.id === "string" && typeof value.typeName === "string";
  // `own` with what makes `after` of `before`. Keys are those of JSON, so none is `__proto__`.
  const merge = (own, before, after) => {
    const merged = {};
    for (const key of keys({ ...own, ...after })) {
      const [mine, from, to] = [own, before, after].map((of) => (hasOwn(of, key) ? of[key] : undefined));
      const value =
        stringify(from) === stringify(to) ? mine
        : isObject(mine) && isObject(from) && isObject(to) ? merge(mine, from, to)
        : to;
      if (value !== undefined) merged[key] = value;
    }
    return merged;
  };
  const copy = (value) => parse(stringify(value));
  const why = (thrown) => {
    // What has run out is no fault of what was asked.
    // Without any memory left there is not even an error to throw, but null.
    if (thrown === null || thrown instanceof Internal || thrown instanceof TooDeep) throw thrown;
    return `${isObject(thrown) && "message" in thrown ? thrown.message : thrown}`;
  };

  return (bundle) => {
    for (const name of FUNCTIONS) {
      if (typeof bundle[name] !== "function") throw new TypeError(`it does not export a function \`${name}\``);
    }
    const { serialize, types, newDocument, serves, migrate, migrateDocument, validate } = bundle;
    // A record with the right keys must not leave something behind for those that come after it.
    for (const shared of [{}, [], why, "", 0, true, new Map(), new Set(), /./, new Date(0), new Error("")]) {
      preventExtensions(getPrototypeOf(shared));
    }

    const migrated = (record, schema, direction) => {
      const result = migrate(record, schema, direction);
      if (!isRecord(result) || result.id !== record.id || result.typeName !== record.typeName) {
        throw new TypeError(`\`migrate\` made no record of ${record.id}`);
      }
      return result;
    };
    const down = (records, schema) => {
      try {
        // A bundle may change what it is given, and each is given to it again.
        return records.map((record) => migrated(copy(record), schema, "down"));
      } catch (thrown) {
        why(thrown);
        return null;
      }
    };
    // What somebody of an older version has made of a record. What that version does not know of stays as it is, if
    // that can be.
    const brought = ({ record, before, own }, from) => {
      const after = migrated(record, from, "up");
      if (before !== null && own !== null) {
        const merged = merge(own, migrated(before, from, "up"), after);
        try {
          validate(copy(merged));
          return merged;
        } catch (thrown) {
          why(thrown);
        }
      }
      validate(copy(after));
      return after;
    };
    const answers = {
      push({ records, from, to }) {
        const own = [];
        for (const asked of records) {
          try {
            if (from === null) validate(to.length === 0 ? asked : copy(asked));
            own.push(from === null ? asked : brought(asked, from));
          } catch (thrown) {
            return { invalid: why(thrown) };
          }
        }
        return { records: from === null ? null : own, to: to.map((schema) => down(own, schema)) };
      },
      serves({ schema }) {
        try {
          return { serves: serves(schema) === true };
        } catch (thrown) {
          why(thrown);
          return { serves: false };
        }
      },
      edition({ schema, records }) {
        const own = serves(copy(schema)) === true ? down(records, schema) : null;
        return own === null ? { refused: true } : { records: own };
      },
      document({ from, records }) {
        try {
          const result = migrateDocument(records, from);
          if (!isArray(result) || !result.every(isRecord)) {
            throw new TypeError("`migrateDocument` gave no list of records");
          }
          return { records: result };
        } catch (thrown) {
          return { failed: why(thrown) };
        }
      },
      valid({ records }) {
        const invalid = [];
        for (const record of records) {
          const { id } = record;
          try {
            validate(record);
          } catch (thrown) {
            why(thrown);
            invalid.push(id);
          }
        }
        return { invalid };
      },
    };

    return {
      describe() {
        const [schema, scopes, records] = [serialize(), types(), newDocument()];
        if (!isObject(schema)) throw new TypeError("`serialize` gave no schema");
        if (!isObject(scopes)) throw new TypeError("`types` gave no object");
        for (const name in scopes) {
          if (!SCOPES.includes(scopes[name])) throw new TypeError(`\`types\` gave no scope for ${name}`);
        }
        if (!isArray(records) || !records.every(isRecord)) {
          throw new TypeError("`newDocument` gave no list of records");
        }
        // Tried on an empty document, as it will be used.
        const said = stringify({ schema, types: scopes, records });
        for (const record of parse(said).records) validate(record);
        if (serves(parse(said).schema) !== true) throw new TypeError("`serves` refuses its own schema");
        const again = answers.document({ from: parse(said).schema, records: parse(said).records });
        if (again.failed !== undefined) throw new TypeError(again.failed);
        return said;
      },
      answer(text) {
        const question = parse(text);
        return stringify(answers[question.ask](question));
      },
    };
  };
})()
