-- A product for companies. Who belongs to an organisation, and who manages it, the identity provider says, in arrays of the
-- token; who is in which team, the application does. Staff of the product are a table of their own.

CREATE TABLE organisation (
  id text PRIMARY KEY,
  name text NOT NULL,
  plan text NOT NULL DEFAULT 'free' CHECK (plan IN ('free', 'business')),
  payment_reference text
);

CREATE TABLE person (
  id text PRIMARY KEY,
  name text NOT NULL,
  email text NOT NULL UNIQUE,
  password_hash text NOT NULL DEFAULT '',
  totp_secret text
);

CREATE TABLE admin (
  person_id text PRIMARY KEY REFERENCES person ON DELETE CASCADE
);

CREATE TABLE team (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  organisation_id text NOT NULL REFERENCES organisation ON DELETE CASCADE,
  name text NOT NULL
);
CREATE INDEX ON team (organisation_id);

CREATE TABLE member (
  team_id uuid NOT NULL REFERENCES team ON DELETE CASCADE,
  person_id text NOT NULL REFERENCES person ON DELETE CASCADE,
  role text NOT NULL DEFAULT 'member' CHECK (role IN ('lead', 'member')),
  PRIMARY KEY (team_id, person_id)
);
CREATE INDEX ON member (person_id);

CREATE TABLE project (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  team_id uuid NOT NULL REFERENCES team ON DELETE CASCADE,
  name text NOT NULL,
  changed_by text
);
CREATE INDEX ON project (team_id);

CREATE TABLE invoice (
  id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  organisation_id text NOT NULL REFERENCES organisation ON DELETE CASCADE,
  amount numeric(12, 2) NOT NULL,
  paid boolean NOT NULL DEFAULT false
);
CREATE INDEX ON invoice (organisation_id);

-- The secret goes out by mail, and to nobody else.
CREATE TABLE invitation (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  team_id uuid NOT NULL REFERENCES team ON DELETE CASCADE,
  email text NOT NULL,
  secret uuid NOT NULL UNIQUE DEFAULT gen_random_uuid(),
  expires_at timestamptz NOT NULL DEFAULT now() + interval '7 days'
);
CREATE INDEX ON invitation (team_id);
CREATE INDEX ON invitation (email);

ALTER TABLE organisation REPLICA IDENTITY FULL;
ALTER TABLE person REPLICA IDENTITY FULL;
ALTER TABLE admin REPLICA IDENTITY FULL;
ALTER TABLE team REPLICA IDENTITY FULL;
ALTER TABLE member REPLICA IDENTITY FULL;
ALTER TABLE project REPLICA IDENTITY FULL;
ALTER TABLE invoice REPLICA IDENTITY FULL;
ALTER TABLE invitation REPLICA IDENTITY FULL;

-- Whoever has the secret, and is signed in, comes into the team. Who was there before stays what they are.
CREATE FUNCTION accept_invitation(wanted uuid, caller text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE invited invitation;
BEGIN
  DELETE FROM invitation WHERE secret = wanted RETURNING * INTO invited;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'there is no such invitation, or somebody has accepted it' USING HINT = 'invitation_unknown';
  END IF;
  IF invited.expires_at <= now() THEN
    RAISE EXCEPTION 'this invitation has expired: ask for a new one' USING HINT = 'invitation_expired';
  END IF;
  INSERT INTO member (team_id, person_id) VALUES (invited.team_id, caller) ON CONFLICT DO NOTHING;
END $$;

CREATE FUNCTION project_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  new.changed_by := nullif(current_setting('rowtide.user_id', true), '');
  RETURN new;
END $$;
CREATE TRIGGER project_changed BEFORE INSERT OR UPDATE ON project FOR EACH ROW EXECUTE FUNCTION project_changed();
