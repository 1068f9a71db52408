-- Notes of workspaces. The text of a note is no column: it is a live document, which everybody in the workspace may read,
-- and its editors may write together.

CREATE TABLE workspace (
  id text PRIMARY KEY,
  name text NOT NULL
);

CREATE TABLE member (
  workspace_id text NOT NULL REFERENCES workspace ON DELETE CASCADE,
  person_id text NOT NULL,
  role text NOT NULL CHECK (role IN ('editor', 'reader')),
  PRIMARY KEY (workspace_id, person_id)
);
CREATE INDEX ON member (person_id);

CREATE TABLE note (
  id text PRIMARY KEY,
  workspace_id text NOT NULL REFERENCES workspace ON DELETE CASCADE,
  title text NOT NULL CHECK (length(title) BETWEEN 1 AND 200),
  saved_at timestamptz
);
CREATE INDEX ON note (workspace_id);
