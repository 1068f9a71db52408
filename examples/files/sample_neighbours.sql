-- Each user is a guest of the shared files of the user before, so that u1 and u2 have files in common.
INSERT INTO "file_state" ("userId", "fileId", "firstVisitAt", "lastVisitAt")
SELECT guest."id", file."id", 1700000000000, 1700000000000
FROM generate_series(1, 1000) AS n
JOIN "file" AS file ON file."ownerId" = 'u' || n AND file."shared"
JOIN "user" AS guest ON guest."id" = 'u' || 1 + n % 1000
ON CONFLICT DO NOTHING;
