-- Everyone is in the lobby, which is open and has 120 messages; ada and ben are in a private channel, with a link for guests.
INSERT INTO person VALUES ('ada', 'Ada'), ('ben', 'Ben'), ('cleo', 'Cleo'), ('mallory', 'Mallory');
INSERT INTO channel (id, name, is_open) VALUES
  ('10000000-0000-4000-8000-000000000001', 'Lobby', true), ('10000000-0000-4000-8000-000000000002', 'Plans', false);
INSERT INTO member SELECT '10000000-0000-4000-8000-000000000001', id FROM person;
INSERT INTO member VALUES
  ('10000000-0000-4000-8000-000000000002', 'ada'), ('10000000-0000-4000-8000-000000000002', 'ben');
INSERT INTO guest_link VALUES
  ('50000000-0000-4000-8000-000000000001', '10000000-0000-4000-8000-000000000002', now() + interval '1 day'),
  ('50000000-0000-4000-8000-000000000002', '10000000-0000-4000-8000-000000000002', now() - interval '1 day');
INSERT INTO message (channel_id, author_id, body)
SELECT '10000000-0000-4000-8000-000000000001', (ARRAY['ada', 'ben', 'cleo', 'mallory'])[1 + n % 4], 'Message ' || n
FROM generate_series(1, 120) AS n;
INSERT INTO message (channel_id, author_id, body) VALUES
  ('10000000-0000-4000-8000-000000000002', 'ada', 'Where to?'), ('10000000-0000-4000-8000-000000000002', 'ben', 'To the sea');
