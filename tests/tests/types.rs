//! `rowtide types`: what the tables of a database are in TypeScript.

use rowtide_tests::{Database, Dir, rowtide, said};

const TABLES: &str = "
CREATE TYPE stage AS ENUM ('todo', 'in progress', 'it''s done');
CREATE TABLE task (
  id uuid PRIMARY KEY,
  owner text NOT NULL,
  stage stage NOT NULL DEFAULT 'todo',
  points float8,
  price numeric(10, 2) NOT NULL,
  labels text[] NOT NULL DEFAULT '{}',
  extra jsonb,
  \"due at\" timestamptz,
  done boolean NOT NULL,
  size int NOT NULL GENERATED ALWAYS AS (1) STORED,
  changes int NOT NULL DEFAULT 0,
  secret jsonb NOT NULL,
  views bigint,
  viewers bigint[] NOT NULL DEFAULT '{}');
CREATE TABLE mark (task uuid, person text, PRIMARY KEY (task, person));
CREATE INDEX ON task (owner);
CREATE INDEX ON mark (person);
ALTER TABLE task REPLICA IDENTITY FULL;
ALTER TABLE mark REPLICA IDENTITY FULL;";

const DEFINITION: &str = "
[tables.task]
visible = 'owner = auth.user_id'
immutable = ['owner']
readonly = ['changes', 'views', 'viewers']
hidden = ['secret']
[tables.task.insert]
allow = 'new.owner = auth.user_id'
[[tables.task.update]]
columns = ['stage', 'due at']
allow = 'old.owner = auth.user_id'
[tables.mark]
visible = 'person = auth.user_id'
[queries.tasks]
params = { of = 'uuid', done = 'bool = false', points = 'float8', views = 'int8' }
[queries.tasks.select]
task = { where = '''id = params.of AND done = params.done AND points = params.points
  AND views = params.views''' }
[queries.all]
select = { task = { where = 'true' } }
";

const SCHEMA: &str = "export interface Schema {
  task: {
    row: {
      /** uuid */
      id: string;
      owner: string;
      stage: 'todo' | 'in progress' | 'it\\'s done';
      /** double precision: NaN and infinities come as strings */
      points: number | null;
      /** numeric(10,2) */
      price: string;
      /** text[] */
      labels: (string | null)[];
      extra: Json | null;
      /** timestamp with time zone */
      'due at': string | null;
      done: boolean;
      changes: number;
      views: number | null;
      /** bigint[] */
      viewers: (number | null)[];
    };
    insert: {
      /** uuid */
      id: string;
      owner: string;
      stage?: 'todo' | 'in progress' | 'it\\'s done';
      /** double precision: NaN and infinities come as strings */
      points?: Float | null;
      /** numeric(10,2) */
      price: string;
      /** text[] */
      labels?: (string | null)[];
      extra?: Json | null;
      /** timestamp with time zone */
      'due at'?: string | null;
      done: boolean;
    };
    update: {
      stage?: 'todo' | 'in progress' | 'it\\'s done';
      /** timestamp with time zone */
      'due at'?: string | null;
    };
    key: 'id';
  };
  mark: {
    row: {
      /** uuid */
      task: string;
      person: string;
    };
    insert: never;
    update: never;
    key: 'task' | 'person';
  };
}

export interface Queries {
  all: {};
  tasks: { done?: boolean | null; of: string | null; points: Float | null; views: number | null };
}

export const tables = {
  task: { key: ['id'], defaults: { stage: 'todo', points: null, labels: [], extra: null, 'due at': null, changes: 0, views: null, viewers: [] } },
  mark: { key: ['task', 'person'] },
} as const;
";

#[tokio::test(flavor = "multi_thread")]
async fn rows_and_what_may_be_written_come_from_the_catalog_and_the_definition() {
    let database = Database::with(TABLES).await;
    let dir = Dir::new();
    dir.write("rowtide.toml", DEFINITION);
    let says = async |args: &[&str]| {
        let mut command = rowtide(args);
        command.current_dir(dir.path()).env("DATABASE_URL", database.url().await);
        said(command).await
    };
    let printed = says(&["types"]).await;
    assert_eq!(printed.code(), Some(0), "{printed:?}");
    let published = database.is_at_least(18, "generated columns are published").await;
    let generated = "      size?: number;\n      changes: number;";
    let changes = "      changes: number;";
    let schema = if published { SCHEMA.replace(changes, generated) } else { SCHEMA.to_owned() };
    assert!(printed.out.ends_with(&schema), "{}", printed.out);
    for part in ["import type { Json } from '@rowtide/client';", "export type Float = number"] {
        assert!(printed.out.contains(part), "{}", printed.out);
    }
    let written = says(&["types", "--out", "schema.ts"]).await;
    assert_eq!((written.code(), &*written.out), (Some(0), ""), "{written:?}");
    let file = std::fs::read_to_string(dir.path().join("schema.ts")).unwrap();
    assert_eq!(file, printed.out);
    dir.write("rowtide.toml", &format!("[app]\nint8 = 'string'\n{DEFINITION}"));
    let strings = says(&["types"]).await.out;
    for part in ["/** bigint */\n      views: string | null;", "viewers: (string | null)[];"] {
        assert!(strings.contains(part), "{strings}");
    }
    assert!(strings.contains("      changes: number;"), "{strings}");
    assert!(strings.contains("points: Float | null; views: string | null };"), "{strings}");
    // What a client can make itself an insert must name; what only the database makes is not there in a new row.
    let more = "ALTER TABLE task ADD made timestamptz NOT NULL DEFAULT now(), ADD number serial";
    database.run(more).await;
    let both = says(&["types"]).await.out;
    let named = "      made: string;\n      number?: number;\n    };";
    assert_eq!(both.matches(named).count(), 2, "{both}");
    dir.write("rowtide.toml", &DEFINITION.replace("readonly = [", "readonly = ['made', "));
    let readonly = says(&["types"]).await.out;
    let late = "      made?: string;\n      number?: number;\n    };\n    insert: {";
    assert!(readonly.contains(late), "{readonly}");
    let inserted = "      done: boolean;\n      number?: number;\n    };";
    assert!(readonly.contains(inserted), "{readonly}");
    // A key that is made may be left out.
    for made in [
        "ALTER TABLE task ALTER id SET DEFAULT gen_random_uuid()",
        "ALTER TABLE task ALTER id DROP DEFAULT;
         CREATE FUNCTION made() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
         CREATE TRIGGER made BEFORE INSERT ON task FOR EACH ROW EXECUTE FUNCTION made()",
    ] {
        database.run(made).await;
        let with_made = says(&["types"]).await.out;
        let optional = "insert: {\n      /** uuid */\n      id?: string;";
        assert!(with_made.contains(optional), "{made}: {with_made}");
    }
    let nowhere = says(&["types", "--out", "nowhere/schema.ts"]).await;
    assert_eq!(nowhere.code(), Some(1));
    assert!(nowhere.err.contains("cannot write `nowhere/schema.ts`"), "{}", nowhere.err);
}
