-- 200 people u1 … u200 in 20 workspaces of 12 members; 3 projects each, 10 issues in a project, 2
-- comments on an issue; every tenth issue has a guest. Ids are made from numbers, so that they are
-- the same everywhere.
INSERT INTO person SELECT 'u' || n, 'Person ' || n FROM generate_series(1, 200) AS n;

INSERT INTO workspace
SELECT ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 'Workspace ' || n
FROM generate_series(1, 20) AS n;

INSERT INTO member
SELECT ('00000000-0000-4000-8000-' || lpad(w::text, 12, '0'))::uuid, 'u' || 1 + (w * 10 + m - 10) % 200,
       CASE WHEN m = 0 THEN 'owner' ELSE 'member' END::member_role
FROM generate_series(1, 20) AS w, generate_series(0, 11) AS m;

INSERT INTO project (id, workspace_id, name)
SELECT ('00000000-0000-4000-9000-' || lpad(n::text, 12, '0'))::uuid,
       ('00000000-0000-4000-8000-' || lpad((1 + (n - 1) / 3)::text, 12, '0'))::uuid, 'Project ' || n
FROM generate_series(1, 60) AS n;

INSERT INTO issue (id, project_id, title, author_id, labels, estimate)
SELECT ('00000000-0000-4000-a000-' || lpad(n::text, 12, '0'))::uuid,
       ('00000000-0000-4000-9000-' || lpad((1 + (n - 1) / 10)::text, 12, '0'))::uuid,
       'Issue ' || n, 'u' || 1 + n % 200, ARRAY[(ARRAY['bug','idea','chore'])[1 + n % 3]], n / 4.0
FROM generate_series(1, 600) AS n;

INSERT INTO comment (id, issue_id, author_id, body)
SELECT ('00000000-0000-4000-b000-' || lpad(n::text, 12, '0'))::uuid,
       ('00000000-0000-4000-a000-' || lpad((1 + (n - 1) / 2)::text, 12, '0'))::uuid,
       'u' || 1 + n % 200, 'Comment ' || n
FROM generate_series(1, 1200) AS n;

INSERT INTO issue_guest
SELECT ('00000000-0000-4000-a000-' || lpad(n::text, 12, '0'))::uuid, 'u' || 1 + (n + 100) % 200
FROM generate_series(10, 600, 10) AS n;
