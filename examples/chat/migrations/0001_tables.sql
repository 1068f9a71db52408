-- A chat: channels that are open to everyone, private or between two; blocks; links with which guests read a channel.

CREATE TABLE person (
  id text PRIMARY KEY,
  name text NOT NULL
);

-- `last_number` is of the newest message, and `pair` of the two whose channel it is.
CREATE TABLE channel (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  name text NOT NULL,
  is_open boolean NOT NULL DEFAULT false,
  pair text[] UNIQUE,
  last_number int NOT NULL DEFAULT 0
);
CREATE INDEX ON channel (is_open) WHERE is_open;

CREATE TABLE member (
  channel_id uuid NOT NULL REFERENCES channel ON DELETE CASCADE,
  person_id text NOT NULL REFERENCES person ON DELETE CASCADE,
  PRIMARY KEY (channel_id, person_id)
);
CREATE INDEX ON member (person_id);

-- How far somebody has read. It changes all the time and is for them alone, so it is no column of member, whose rows all
-- members of the channel have.
CREATE TABLE reading (
  channel_id uuid NOT NULL REFERENCES channel ON DELETE CASCADE,
  person_id text NOT NULL REFERENCES person ON DELETE CASCADE,
  read_to int NOT NULL,
  PRIMARY KEY (channel_id, person_id)
);
CREATE INDEX ON reading (person_id);

-- The number is its place in the channel, without gaps.
CREATE TABLE message (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  channel_id uuid NOT NULL REFERENCES channel ON DELETE CASCADE,
  number int NOT NULL,
  author_id text NOT NULL REFERENCES person,
  body text NOT NULL CHECK (length(body) BETWEEN 1 AND 4000),
  sent_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE (channel_id, number)
);

CREATE TABLE block (
  person_id text NOT NULL REFERENCES person ON DELETE CASCADE,
  blocked_id text NOT NULL REFERENCES person ON DELETE CASCADE,
  PRIMARY KEY (person_id, blocked_id)
);

-- Whoever has a token with the id of the link reads the channel, as long as the link is there.
CREATE TABLE guest_link (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  channel_id uuid NOT NULL REFERENCES channel ON DELETE CASCADE,
  expires_at timestamptz NOT NULL DEFAULT now() + interval '1 day'
);
CREATE INDEX ON guest_link (channel_id);

ALTER TABLE person REPLICA IDENTITY FULL;
ALTER TABLE channel REPLICA IDENTITY FULL;
ALTER TABLE member REPLICA IDENTITY FULL;
ALTER TABLE reading REPLICA IDENTITY FULL;
ALTER TABLE message REPLICA IDENTITY FULL;
ALTER TABLE block REPLICA IDENTITY FULL;
ALTER TABLE guest_link REPLICA IDENTITY FULL;

-- One row is written for a message, however many have not read it: what is unread, a client takes from last_number and read_to.
CREATE FUNCTION number_message() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE channel SET last_number = last_number + 1 WHERE id = new.channel_id RETURNING last_number INTO new.number;
  INSERT INTO reading SELECT channel_id, person_id, new.number FROM member
  WHERE channel_id = new.channel_id AND person_id = new.author_id
  ON CONFLICT (channel_id, person_id) DO UPDATE SET read_to = excluded.read_to;
  RETURN new;
END $$;
CREATE TRIGGER number_message BEFORE INSERT ON message FOR EACH ROW EXECUTE FUNCTION number_message();

-- The channel between the caller and another, made by whoever is first.
CREATE FUNCTION open_direct(caller text, other text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  of_two text[] := ARRAY[least(caller, other), greatest(caller, other)];
  made uuid;
BEGIN
  IF caller = other OR NOT EXISTS (SELECT FROM person WHERE id = other) THEN
    RAISE EXCEPTION 'there is nobody else of this name' USING HINT = 'nobody';
  END IF;
  IF EXISTS (SELECT FROM block WHERE (person_id, blocked_id) IN ((caller, other), (other, caller))) THEN
    RAISE EXCEPTION 'you two do not write to each other' USING HINT = 'blocked';
  END IF;
  INSERT INTO channel (name, pair) VALUES (array_to_string(of_two, ' and '), of_two) ON CONFLICT (pair) DO NOTHING RETURNING id INTO made;
  IF made IS NOT NULL THEN
    INSERT INTO member VALUES (made, caller), (made, other);
  END IF;
END $$;
