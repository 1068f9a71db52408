-- Derived columns stay true whoever writes. Locks are always taken in the order user, file,
-- file_state, and rows of one table in the order of their keys; a row that would not change is not
-- touched, so that nothing is written, replicated or locked in vain.

-- A file carries its owner's name and picture. The owner's row is locked against a change of both
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

CREATE TRIGGER file_owner_update BEFORE UPDATE OF "ownerId" ON "file"
  FOR EACH ROW WHEN (OLD."ownerId" IS DISTINCT FROM NEW."ownerId")
  EXECUTE FUNCTION file_owner();

-- Whoever writes name or picture of the owner themselves is put right. Without a lock, which would be
-- the wrong way round after the file's: a renaming that is under way comes to this file later.
CREATE FUNCTION file_owner_written() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  SELECT "name", "avatar" INTO NEW."ownerName", NEW."ownerAvatar"
  FROM "user" WHERE "id" = NEW."ownerId";
  RETURN NEW;
END $$;

CREATE TRIGGER file_owner_written BEFORE UPDATE OF "ownerName", "ownerAvatar" ON "file"
  FOR EACH ROW WHEN (OLD."ownerId" = NEW."ownerId"
    AND (OLD."ownerName", OLD."ownerAvatar") IS DISTINCT FROM (NEW."ownerName", NEW."ownerAvatar"))
  EXECUTE FUNCTION file_owner_written();

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

CREATE TRIGGER file_state_owner_written BEFORE UPDATE OF "userId", "fileId", "isFileOwner" ON "file_state"
  FOR EACH ROW WHEN ((OLD."userId", OLD."fileId", OLD."isFileOwner")
    IS DISTINCT FROM (NEW."userId", NEW."fileId", NEW."isFileOwner"))
  EXECUTE FUNCTION file_state_owner();

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
