-- Lists of things to do that people share, as an application on Supabase has them: row-level security says who reads and who
-- writes, and triggers write down who did what.

CREATE TABLE profiles (
  id uuid PRIMARY KEY REFERENCES auth.users ON DELETE CASCADE,
  username text NOT NULL UNIQUE CHECK (length(username) BETWEEN 3 AND 40),
  avatar_url text
);

CREATE TABLE lists (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  owner_id uuid NOT NULL DEFAULT auth.uid() REFERENCES auth.users ON DELETE CASCADE,
  name text NOT NULL,
  is_public boolean NOT NULL DEFAULT false
);
CREATE INDEX ON lists (owner_id);

CREATE TABLE list_members (
  list_id uuid NOT NULL REFERENCES lists ON DELETE CASCADE,
  user_id uuid NOT NULL REFERENCES auth.users ON DELETE CASCADE,
  can_edit boolean NOT NULL DEFAULT true,
  PRIMARY KEY (list_id, user_id)
);
CREATE INDEX ON list_members (user_id);

CREATE TABLE items (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  list_id uuid NOT NULL REFERENCES lists ON DELETE CASCADE,
  title text NOT NULL,
  is_complete boolean NOT NULL DEFAULT false,
  created_by uuid NOT NULL DEFAULT auth.uid(),
  updated_by uuid,
  updated_at timestamptz
);
CREATE INDEX ON items (list_id);

CREATE TABLE activity (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  list_id uuid NOT NULL REFERENCES lists ON DELETE CASCADE,
  actor_id uuid,
  what text NOT NULL,
  at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON activity (list_id);

-- Policies of list_members and of lists would ask each other in a circle. Functions that pass over policies stand between them.
CREATE SCHEMA private;
GRANT USAGE ON SCHEMA private TO authenticated;
CREATE FUNCTION private.owns_list(list uuid) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ''
  AS $$ SELECT EXISTS (SELECT FROM public.lists WHERE id = list AND owner_id = auth.uid()) $$;
CREATE FUNCTION private.shares_list(list uuid) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ''
  AS $$ SELECT EXISTS (SELECT FROM public.list_members WHERE list_id = list AND user_id = auth.uid()) $$;
CREATE FUNCTION private.edits_list(list uuid) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ''
  AS $$ SELECT EXISTS (SELECT FROM public.list_members WHERE list_id = list AND user_id = auth.uid() AND can_edit) $$;

ALTER TABLE profiles ENABLE ROW LEVEL SECURITY;
CREATE POLICY "Profiles are public" ON profiles FOR SELECT USING (true);
CREATE POLICY "Users insert their own profile" ON profiles FOR INSERT TO authenticated
  WITH CHECK ((SELECT auth.uid()) = id);
CREATE POLICY "Users update their own profile" ON profiles FOR UPDATE TO authenticated
  USING ((SELECT auth.uid()) = id);

ALTER TABLE lists ENABLE ROW LEVEL SECURITY;
CREATE POLICY "Owners do everything with their lists" ON lists FOR ALL TO authenticated
  USING (owner_id = (SELECT auth.uid()));
CREATE POLICY "Members read" ON lists FOR SELECT TO authenticated
  USING (id IN (SELECT list_id FROM list_members WHERE user_id = (SELECT auth.uid())));
CREATE POLICY "Public lists are for everyone" ON lists FOR SELECT USING (is_public);

ALTER TABLE list_members ENABLE ROW LEVEL SECURITY;
CREATE POLICY "Members see themselves" ON list_members FOR SELECT TO authenticated
  USING (user_id = (SELECT auth.uid()));
CREATE POLICY "Who shares a list sees with whom" ON list_members FOR SELECT TO authenticated
  USING (private.shares_list(list_id) OR private.owns_list(list_id));
CREATE POLICY "Owners share their lists" ON list_members FOR INSERT TO authenticated
  WITH CHECK (private.owns_list(list_id));
CREATE POLICY "Owners say who edits" ON list_members FOR UPDATE TO authenticated
  USING (private.owns_list(list_id));
CREATE POLICY "Owners end it" ON list_members FOR DELETE TO authenticated
  USING (private.owns_list(list_id));
CREATE POLICY "Members leave" ON list_members FOR DELETE TO authenticated
  USING (user_id = (SELECT auth.uid()));

ALTER TABLE items ENABLE ROW LEVEL SECURITY;
CREATE POLICY "Who sees the list sees its items" ON items FOR SELECT
  USING (list_id IN (SELECT id FROM lists));
CREATE POLICY "Editors write items" ON items FOR INSERT TO authenticated
  WITH CHECK (private.owns_list(list_id) OR private.edits_list(list_id));
CREATE POLICY "Editors change items" ON items FOR UPDATE TO authenticated
  USING (private.owns_list(list_id) OR private.edits_list(list_id));
CREATE POLICY "Who has written an item may delete it" ON items FOR DELETE TO authenticated
  USING (created_by = (SELECT auth.uid()));

ALTER TABLE activity ENABLE ROW LEVEL SECURITY;
CREATE POLICY "Who shares a list sees what happens in it" ON activity FOR SELECT TO authenticated
  USING (list_id IN (SELECT list_id FROM list_members WHERE user_id = (SELECT auth.uid()))
         OR list_id IN (SELECT id FROM lists WHERE owner_id = (SELECT auth.uid())));

CREATE FUNCTION item_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  new.updated_by := auth.uid();
  new.updated_at := now();
  RETURN new;
END $$;
CREATE TRIGGER item_changes BEFORE INSERT OR UPDATE ON items FOR EACH ROW EXECUTE FUNCTION item_changes();

-- Nobody has a policy to write here: it is written with the rights of who made the function, and still knows who caused it.
CREATE FUNCTION item_changed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
  INSERT INTO public.activity (list_id, actor_id, what)
  VALUES (new.list_id, auth.uid(), CASE WHEN tg_op = 'INSERT' THEN 'added ' ELSE 'changed ' END || new.title);
  RETURN NULL;
END $$;
CREATE TRIGGER item_changed AFTER INSERT OR UPDATE ON items FOR EACH ROW EXECUTE FUNCTION item_changed();
