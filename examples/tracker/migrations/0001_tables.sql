-- An issue tracker: workspaces with members, projects, issues and comments. Who is a member of a
-- workspace sees all of it; a guest sees single issues.

CREATE TYPE member_role AS ENUM ('owner', 'member', 'suspended');
CREATE TYPE issue_status AS ENUM ('open', 'doing', 'done');

CREATE TABLE person (
  id text PRIMARY KEY,
  name text NOT NULL
);

CREATE TABLE workspace (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  name text NOT NULL
);

CREATE TABLE member (
  workspace_id uuid NOT NULL REFERENCES workspace ON DELETE CASCADE,
  person_id text NOT NULL REFERENCES person ON DELETE CASCADE,
  role member_role NOT NULL,
  PRIMARY KEY (workspace_id, person_id)
);

CREATE TABLE project (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  workspace_id uuid NOT NULL REFERENCES workspace ON DELETE CASCADE,
  name text NOT NULL,
  archived_at timestamptz
);

CREATE TABLE issue (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  project_id uuid NOT NULL REFERENCES project ON DELETE CASCADE,
  title text NOT NULL,
  status issue_status NOT NULL DEFAULT 'open',
  author_id text NOT NULL REFERENCES person,
  labels text[] NOT NULL DEFAULT '{}',
  estimate numeric,
  created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE comment (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  issue_id uuid NOT NULL REFERENCES issue ON DELETE CASCADE,
  author_id text NOT NULL REFERENCES person,
  body text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE issue_guest (
  issue_id uuid NOT NULL REFERENCES issue ON DELETE CASCADE,
  person_id text NOT NULL REFERENCES person ON DELETE CASCADE,
  PRIMARY KEY (issue_id, person_id)
);

CREATE INDEX member_person ON member (person_id);
CREATE INDEX project_workspace ON project (workspace_id);
CREATE INDEX issue_project ON issue (project_id);
CREATE INDEX comment_issue ON comment (issue_id);
CREATE INDEX issue_guest_person ON issue_guest (person_id);

ALTER TABLE person REPLICA IDENTITY FULL;
ALTER TABLE workspace REPLICA IDENTITY FULL;
ALTER TABLE member REPLICA IDENTITY FULL;
ALTER TABLE project REPLICA IDENTITY FULL;
ALTER TABLE issue REPLICA IDENTITY FULL;
ALTER TABLE comment REPLICA IDENTITY FULL;
ALTER TABLE issue_guest REPLICA IDENTITY FULL;
