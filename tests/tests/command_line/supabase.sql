-- An application on Supabase, with the patterns of policies that its documentation has. What Supabase itself brings is
-- here as far as policies need it.

CREATE SCHEMA auth;
CREATE SCHEMA storage;
CREATE SCHEMA private;
CREATE FUNCTION auth.jwt() RETURNS jsonb LANGUAGE sql STABLE
  AS $$ SELECT coalesce(nullif(current_setting('request.jwt.claims', true), '')::jsonb, '{}') $$;
CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS $$ SELECT (auth.jwt() ->> 'sub')::uuid $$;
CREATE FUNCTION auth.role() RETURNS text LANGUAGE sql STABLE AS $$ SELECT auth.jwt() ->> 'role' $$;
CREATE FUNCTION storage.foldername(name text) RETURNS text[] LANGUAGE sql AS $$ SELECT string_to_array(name, '/') $$;
CREATE TABLE auth.users (id uuid PRIMARY KEY, email text);
CREATE TABLE auth.mfa_factors (id uuid PRIMARY KEY, user_id uuid NOT NULL, status text NOT NULL);
ALTER TABLE auth.mfa_factors ENABLE ROW LEVEL SECURITY;
CREATE TABLE schema_migrations (version text PRIMARY KEY);

-- Public profiles, written by their owners.
CREATE TABLE profiles (
  id uuid PRIMARY KEY REFERENCES auth.users,
  username text NOT NULL,
  role varchar NOT NULL DEFAULT 'user'
);
ALTER TABLE profiles ENABLE ROW LEVEL SECURITY;
CREATE POLICY "Public profiles are viewable by everyone." ON profiles FOR SELECT USING (true);
CREATE POLICY "Users can insert their own profile." ON profiles FOR INSERT WITH CHECK ((SELECT auth.uid()) = id);
CREATE POLICY "Users can update own profile." ON profiles FOR UPDATE USING ((SELECT auth.uid()) = id);

-- One's own rows.
CREATE TABLE todos (
  id uuid PRIMARY KEY, user_id uuid NOT NULL REFERENCES auth.users, task text NOT NULL, is_complete bool NOT NULL DEFAULT false
);
CREATE INDEX ON todos (user_id);
ALTER TABLE todos ENABLE ROW LEVEL SECURITY;
CREATE POLICY "Individuals can do everything with their todos" ON todos FOR ALL TO authenticated
  USING ((SELECT auth.uid()) = user_id) WITH CHECK ((SELECT auth.uid()) = user_id);

-- Teams, by membership.
CREATE TABLE teams (id uuid PRIMARY KEY, name text NOT NULL, owner_id uuid REFERENCES auth.users);
CREATE TABLE team_members (
  team_id uuid NOT NULL REFERENCES teams, user_id uuid NOT NULL REFERENCES auth.users, role text NOT NULL DEFAULT 'member',
  PRIMARY KEY (team_id, user_id)
);
CREATE INDEX ON team_members (user_id);
ALTER TABLE teams ENABLE ROW LEVEL SECURITY;
ALTER TABLE team_members ENABLE ROW LEVEL SECURITY;
CREATE POLICY "Members see their own memberships" ON team_members FOR SELECT TO authenticated
  USING (user_id = (SELECT auth.uid()));
CREATE POLICY "Team members can see their team" ON teams FOR SELECT TO authenticated
  USING (id IN (SELECT team_id FROM team_members WHERE user_id = (SELECT auth.uid())));
CREATE POLICY "Team admins can update it" ON teams FOR UPDATE TO authenticated
  USING ((SELECT auth.uid()) IN (SELECT user_id FROM team_members WHERE team_id = teams.id AND role = 'admin'));

-- EXISTS, and a chain of joins.
CREATE TABLE projects (id uuid PRIMARY KEY, team_id uuid NOT NULL REFERENCES teams, deleted_at timestamptz);
CREATE INDEX ON projects (team_id);
CREATE TABLE tasks (id uuid PRIMARY KEY, project_id uuid NOT NULL REFERENCES projects, title text NOT NULL);
CREATE INDEX ON tasks (project_id);
ALTER TABLE projects ENABLE ROW LEVEL SECURITY;
ALTER TABLE tasks ENABLE ROW LEVEL SECURITY;
CREATE POLICY "Members see projects that are not deleted" ON projects FOR SELECT TO authenticated
  USING (deleted_at IS NULL AND EXISTS (
    SELECT 1 FROM team_members m WHERE m.team_id = projects.team_id AND m.user_id = auth.uid()));
CREATE POLICY "Members see tasks" ON tasks FOR SELECT TO authenticated
  USING (EXISTS (SELECT 1 FROM projects p JOIN team_members m ON m.team_id = p.team_id
    WHERE p.id = tasks.project_id AND m.user_id = (SELECT auth.uid())));
CREATE POLICY "Members write tasks" ON tasks FOR INSERT TO authenticated
  WITH CHECK (EXISTS (SELECT 1 FROM projects p JOIN team_members m ON m.team_id = p.team_id
    WHERE p.id = tasks.project_id AND m.user_id = (SELECT auth.uid())));
CREATE POLICY "Task writers" ON tasks FOR DELETE USING (auth.role() = 'authenticated' AND title <> 'kept');

-- What relies on the policies of another table.
CREATE TABLE comments (id uuid PRIMARY KEY, task_id uuid NOT NULL REFERENCES tasks, author_id uuid NOT NULL, body text);
CREATE INDEX ON comments (task_id);
ALTER TABLE comments ENABLE ROW LEVEL SECURITY;
CREATE POLICY "Who sees the task sees its comments" ON comments FOR SELECT
  USING (task_id IN (SELECT id FROM tasks));

-- A tenant in a claim, an admin by a claim, and multi-factor authentication.
CREATE TABLE invoices (id int PRIMARY KEY, tenant_id int NOT NULL, status text NOT NULL, amount numeric);
CREATE INDEX ON invoices (tenant_id);
ALTER TABLE invoices ENABLE ROW LEVEL SECURITY;
CREATE POLICY "Tenants" ON invoices FOR SELECT TO authenticated
  USING (tenant_id::text = (auth.jwt() ->> 'tenant_id') AND status IN ('open', 'paid'));
CREATE POLICY "Second factor" ON invoices AS RESTRICTIVE TO authenticated
  USING ((SELECT auth.jwt() ->> 'aal') = 'aal2');
CREATE TABLE settings (name text PRIMARY KEY, value jsonb);
ALTER TABLE settings ENABLE ROW LEVEL SECURITY;
CREATE POLICY "Admins" ON settings FOR ALL TO authenticated
  USING ((auth.jwt() -> 'app_metadata' ->> 'role') = 'admin');
CREATE POLICY "The server" ON settings FOR ALL TO service_role USING (true);
CREATE TABLE audit_log (id bigint PRIMARY KEY, actor uuid, what text);
ALTER TABLE audit_log ENABLE ROW LEVEL SECURITY;
CREATE POLICY "Admins by table" ON audit_log FOR SELECT
  USING ((SELECT p.role FROM profiles p WHERE p.id = auth.uid()) = 'admin');
CREATE TABLE secrets (id int PRIMARY KEY, user_id uuid NOT NULL);
ALTER TABLE secrets ENABLE ROW LEVEL SECURITY;
CREATE POLICY "Own" ON secrets FOR SELECT USING (user_id = auth.uid());
CREATE POLICY "Second factor where there is one" ON secrets AS RESTRICTIVE TO authenticated
  USING (ARRAY[(SELECT auth.jwt() ->> 'aal')] <@ (
    SELECT CASE WHEN count(id) > 0 THEN ARRAY['aal2'] ELSE ARRAY['aal1', 'aal2'] END
    FROM auth.mfa_factors WHERE auth.uid() = user_id AND status = 'verified'));

-- Functions that look things up.
CREATE FUNCTION private.is_member(team uuid) RETURNS bool LANGUAGE sql SECURITY DEFINER SET search_path = ''
  AS $$ SELECT EXISTS (SELECT FROM public.team_members WHERE team_id = team AND user_id = auth.uid()) $$;
CREATE TABLE documents (id uuid PRIMARY KEY, team_id uuid NOT NULL, owner uuid NOT NULL, published bool NOT NULL DEFAULT false);
CREATE INDEX ON documents (owner);
ALTER TABLE documents ENABLE ROW LEVEL SECURITY;
CREATE POLICY "Members of the team" ON documents FOR SELECT USING ((SELECT private.is_member(team_id)));
CREATE POLICY "Owners" ON documents FOR ALL USING (auth.uid()::text = owner::text);
CREATE POLICY "Strangers read what is published" ON documents FOR SELECT TO anon, authenticated USING (published);
CREATE TABLE objects (id uuid PRIMARY KEY, bucket_id text NOT NULL, name text NOT NULL);
ALTER TABLE objects ENABLE ROW LEVEL SECURITY;
CREATE POLICY "Own folder" ON objects FOR SELECT TO authenticated
  USING (bucket_id = 'avatars' AND (storage.foldername(name))[1] = auth.uid()::text);

-- Time, arrays, blocks, roles of the database, nobody.
CREATE TABLE shares (id uuid PRIMARY KEY, user_id uuid NOT NULL, expires_at timestamptz NOT NULL);
CREATE INDEX ON shares (user_id);
ALTER TABLE shares ENABLE ROW LEVEL SECURITY;
CREATE POLICY "Until it ends" ON shares FOR SELECT USING (user_id = auth.uid() AND expires_at > now());
CREATE TABLE rooms (id uuid PRIMARY KEY, members uuid[] NOT NULL);
ALTER TABLE rooms ENABLE ROW LEVEL SECURITY;
CREATE POLICY "Members" ON rooms FOR SELECT USING (auth.uid() = ANY (members));
CREATE TABLE blocks (blocker uuid NOT NULL, blocked uuid NOT NULL, PRIMARY KEY (blocker, blocked));
CREATE TABLE posts (id uuid PRIMARY KEY, author_id uuid NOT NULL REFERENCES auth.users, body text);
ALTER TABLE posts ENABLE ROW LEVEL SECURITY;
CREATE POLICY "Not of whom one has blocked" ON posts FOR SELECT TO authenticated
  USING (NOT EXISTS (SELECT 1 FROM blocks b WHERE b.blocked = posts.author_id AND b.blocker = auth.uid()));
CREATE TABLE reports (id int PRIMARY KEY, body text);
ALTER TABLE reports ENABLE ROW LEVEL SECURITY;
CREATE POLICY "Analysts" ON reports FOR SELECT TO analyst USING (true);
CREATE TABLE drafts (id int PRIMARY KEY, org text NOT NULL);
ALTER TABLE drafts ENABLE ROW LEVEL SECURITY;
CREATE POLICY "By claims as PostgREST has them" ON drafts FOR SELECT
  USING (org = (NULLIF(current_setting('request.jwt.claims', true), '')::json ->> 'org')
    OR org = current_setting('app.org', true));
CREATE POLICY "By its number as text" ON drafts FOR SELECT USING (id::text = '07');
CREATE TABLE locked (id int PRIMARY KEY);
ALTER TABLE locked ENABLE ROW LEVEL SECURITY;

-- Without row-level security, and without a key.
CREATE TABLE countries (code text PRIMARY KEY, name text);
CREATE TABLE events (at timestamptz, what text);
