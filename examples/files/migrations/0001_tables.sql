-- The account data of a drawing app. Times are milliseconds since 1970.

CREATE TABLE "user" (
  "id" varchar PRIMARY KEY,
  "name" varchar NOT NULL,
  "email" varchar NOT NULL,
  "avatar" varchar NOT NULL,
  "color" varchar NOT NULL,
  "exportFormat" varchar NOT NULL,
  "exportTheme" varchar NOT NULL,
  "exportBackground" boolean NOT NULL,
  "exportPadding" boolean NOT NULL,
  "createdAt" bigint NOT NULL,
  "updatedAt" bigint NOT NULL,
  "flags" varchar NOT NULL,
  "locale" varchar,
  "animationSpeed" bigint,
  "edgeScrollSpeed" bigint,
  "colorScheme" varchar,
  "isSnapMode" boolean,
  "isWrapMode" boolean,
  "isDynamicSizeMode" boolean,
  "isPasteAtCursorMode" boolean,
  "allowAnalyticsCookie" boolean
);

CREATE TABLE "file" (
  "id" varchar PRIMARY KEY,
  "name" varchar NOT NULL,
  "ownerId" varchar NOT NULL REFERENCES "user" ("id") ON DELETE CASCADE,
  "ownerName" varchar NOT NULL DEFAULT '',
  "ownerAvatar" varchar NOT NULL DEFAULT '',
  "thumbnail" varchar NOT NULL,
  "shared" boolean NOT NULL,
  "sharedLinkType" varchar NOT NULL CHECK ("sharedLinkType" IN ('view', 'edit')),
  "published" boolean NOT NULL,
  "lastPublished" bigint NOT NULL,
  "publishedSlug" varchar NOT NULL UNIQUE,
  "createdAt" bigint NOT NULL,
  "updatedAt" bigint NOT NULL,
  "isEmpty" boolean NOT NULL,
  "isDeleted" boolean NOT NULL DEFAULT false,
  "createSource" varchar
);

CREATE TABLE "file_state" (
  "userId" varchar NOT NULL REFERENCES "user" ("id") ON DELETE CASCADE,
  "fileId" varchar NOT NULL REFERENCES "file" ("id") ON DELETE CASCADE,
  "firstVisitAt" bigint,
  "lastEditAt" bigint,
  "lastSessionState" varchar,
  "lastVisitAt" bigint,
  "isFileOwner" boolean NOT NULL DEFAULT false,
  "isPinned" boolean NOT NULL DEFAULT false,
  PRIMARY KEY ("userId", "fileId")
);

CREATE INDEX "file_ownerId" ON "file" ("ownerId");
CREATE INDEX "file_state_fileId" ON "file_state" ("fileId");

ALTER TABLE "user" REPLICA IDENTITY FULL;
ALTER TABLE "file" REPLICA IDENTITY FULL;
ALTER TABLE "file_state" REPLICA IDENTITY FULL;
