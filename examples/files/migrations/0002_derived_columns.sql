-- Derived columns stay true whoever writes. Locks are always taken in the order user, file,
-- file_state, and rows of one table in the order of their keys; a row that would not change is not
-- touched, so that nothing is written, replicated or locked in vain.

-- A new file gets its owner's name and picture. The owner's row is locked against a change of both
-- until this transaction ends; a renaming that came first is waited for and then seen.
CREATE FUNCTION file_owner() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  SELECT "name", "avatar" INTO NEW."ownerName", NEW."ownerAvatar"
  FROM "user" WHERE "id" = NEW."ownerId" FOR SHARE;
  -- Without an owner the foreign key refuses the row with a better message.
  NEW."ownerName" := coalesce(NEW."ownerName", '');
  NEW."ownerAvatar" := coalesce(NEW."ownerAvatar", '');
  RETURN NEW;
END $$;

CREATE TRIGGER file_owner_insert BEFORE INSERT ON "file"
  FOR EACH ROW EXECUTE FUNCTION file_owner();

-- A file that changes hands, or whose derived columns somebody writes, is locked already when its
-- owner is looked up, so the owner's row is not locked as well: that would be the wrong way round.
CREATE FUNCTION file_owner_written() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  SELECT "name", "avatar" INTO NEW."ownerName", NEW."ownerAvatar"
  FROM "user" WHERE "id" = NEW."ownerId";
  NEW."ownerName" := coalesce(NEW."ownerName", '');
  NEW."ownerAvatar" := coalesce(NEW."ownerAvatar", '');
  RETURN NEW;
END $$;

CREATE TRIGGER file_owner_written BEFORE UPDATE OF "ownerId", "ownerName", "ownerAvatar" ON "file"
  FOR EACH ROW WHEN ((OLD."ownerId", OLD."ownerName", OLD."ownerAvatar")
    IS DISTINCT FROM (NEW."ownerId", NEW."ownerName", NEW."ownerAvatar"))
  EXECUTE FUNCTION file_owner_written();

-- A renaming that is under way comes to its owner's files later, but not to one that is given to them
-- meanwhile. So files change hands and people change names one after the other, decided before either
-- has locked a row; renamings do not wait for each other.
CREATE FUNCTION one_at_a_time() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_TABLE_NAME = 'file' THEN
    PERFORM pg_advisory_xact_lock(hashtext('file owner'));
  ELSE
    PERFORM pg_advisory_xact_lock_shared(hashtext('file owner'));
  END IF;
  RETURN NULL;
END $$;

CREATE TRIGGER file_changes_hands BEFORE UPDATE OF "ownerId" ON "file"
  FOR EACH STATEMENT EXECUTE FUNCTION one_at_a_time();

CREATE TRIGGER user_is_renamed BEFORE UPDATE OF "name", "avatar" ON "user"
  FOR EACH STATEMENT EXECUTE FUNCTION one_at_a_time();

CREATE FUNCTION user_renamed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM 1 FROM "file"
  WHERE "ownerId" = NEW."id" AND ("ownerName", "ownerAvatar") IS DISTINCT FROM (NEW."name", NEW."avatar")
  ORDER BY "id" FOR NO KEY UPDATE;
  UPDATE "file" SET "ownerName" = NEW."name", "ownerAvatar" = NEW."avatar"
  WHERE "ownerId" = NEW."id" AND ("ownerName", "ownerAvatar") IS DISTINCT FROM (NEW."name", NEW."avatar");
  RETURN NULL;
END $$;

CREATE TRIGGER user_renamed AFTER UPDATE OF "name", "avatar" ON "user"
  FOR EACH ROW
  WHEN ((OLD."name", OLD."avatar") IS DISTINCT FROM (NEW."name", NEW."avatar"))
  EXECUTE FUNCTION user_renamed();

-- A state knows whether it is the owner's. The file is locked against a change of owner meanwhile.
CREATE FUNCTION file_state_owner() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  owner varchar;
BEGIN
  SELECT "ownerId" INTO owner FROM "file" WHERE "id" = NEW."fileId" FOR SHARE;
  NEW."isFileOwner" := coalesce(owner = NEW."userId", false);
  RETURN NEW;
END $$;

CREATE TRIGGER file_state_owner BEFORE INSERT ON "file_state"
  FOR EACH ROW EXECUTE FUNCTION file_state_owner();

CREATE TRIGGER file_state_owner_moved BEFORE UPDATE OF "fileId" ON "file_state"
  FOR EACH ROW WHEN (OLD."fileId" <> NEW."fileId")
  EXECUTE FUNCTION file_state_owner();

-- Of a state that stays with its file nothing more is locked, which would be the wrong way round after
-- the state's own lock: a change of owner that is under way comes to this state later.
CREATE FUNCTION file_state_owner_written() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  SELECT "ownerId" = NEW."userId" INTO NEW."isFileOwner" FROM "file" WHERE "id" = NEW."fileId";
  RETURN NEW;
END $$;

CREATE TRIGGER file_state_owner_written BEFORE UPDATE OF "userId", "isFileOwner" ON "file_state"
  FOR EACH ROW WHEN (OLD."fileId" = NEW."fileId"
    AND (OLD."userId", OLD."isFileOwner") IS DISTINCT FROM (NEW."userId", NEW."isFileOwner"))
  EXECUTE FUNCTION file_state_owner_written();

CREATE FUNCTION file_changed_hands() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM 1 FROM "file_state" WHERE "fileId" = NEW."id" ORDER BY "userId" FOR UPDATE;
  UPDATE "file_state" SET "isFileOwner" = ("userId" = NEW."ownerId")
  WHERE "fileId" = NEW."id" AND "isFileOwner" IS DISTINCT FROM ("userId" = NEW."ownerId");
  RETURN NULL;
END $$;

CREATE TRIGGER file_changed_hands AFTER UPDATE OF "ownerId" ON "file"
  FOR EACH ROW WHEN (OLD."ownerId" IS DISTINCT FROM NEW."ownerId")
  EXECUTE FUNCTION file_changed_hands();

-- When a file is no longer shared, its guests' states go.
CREATE FUNCTION file_unshared() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM 1 FROM "file_state"
  WHERE "fileId" = NEW."id" AND "userId" <> NEW."ownerId" ORDER BY "userId" FOR UPDATE;
  DELETE FROM "file_state" WHERE "fileId" = NEW."id" AND "userId" <> NEW."ownerId";
  RETURN NULL;
END $$;

CREATE TRIGGER file_unshared AFTER UPDATE OF "shared" ON "file"
  FOR EACH ROW WHEN (OLD."shared" AND NOT NEW."shared")
  EXECUTE FUNCTION file_unshared();
