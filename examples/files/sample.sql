-- 1,000 people u1 … u1000, 20 files each (f1 … f20000), every fifth of them shared; on each shared
-- file five guests.
INSERT INTO "user" ("id", "name", "email", "avatar", "color", "exportFormat", "exportTheme",
                    "exportBackground", "exportPadding", "createdAt", "updatedAt", "flags", "locale")
SELECT 'u' || n,
       (ARRAY['Ada','Ben','Cleo','Dan','Eva','Finn','Gita','Hugo','Ines','Jon'])[1 + n % 10] || ' ' || n,
       'u' || n || '@example.com', 'https://example.com/avatars/' || n || '.png',
       (ARRAY['red','green','blue','orange','violet'])[1 + n % 5],
       'png', 'auto', true, true, 1700000000000 + n, 1700000000000 + n, '', 'en'
FROM generate_series(1, 1000) AS n;

INSERT INTO "file" ("id", "name", "ownerId", "thumbnail", "shared", "sharedLinkType", "published",
                    "lastPublished", "publishedSlug", "createdAt", "updatedAt", "isEmpty")
SELECT 'f' || n,
       (ARRAY['Plan','Sketch','Map','Diagram','Board','Notes','Layout'])[1 + n % 7] || ' ' || n,
       'u' || 1 + (n - 1) / 20, '', n % 5 = 0,
       CASE WHEN n % 10 = 0 THEN 'edit' ELSE 'view' END, false, 0, 'slug-' || n,
       1700000000000 + n, 1700000000000 + n, n % 3 = 0
FROM generate_series(1, 20000) AS n;

INSERT INTO "file_state" ("userId", "fileId", "firstVisitAt", "lastVisitAt", "isPinned")
SELECT "ownerId", "id", "createdAt", "updatedAt", "isEmpty" FROM "file";

INSERT INTO "file_state" ("userId", "fileId", "firstVisitAt", "lastVisitAt")
SELECT 'u' || 1 + (n / 20 + guest * 7) % 1000, 'f' || n, 1700000000000, 1700000000000
FROM generate_series(5, 20000, 5) AS n, generate_series(1, 5) AS guest
ON CONFLICT DO NOTHING;
