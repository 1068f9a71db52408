CREATE TABLE channel (id int PRIMARY KEY, archived bool NOT NULL DEFAULT false);
CREATE TABLE message (channel int, author text, id serial PRIMARY KEY);
CREATE TABLE member (person text, channel int, id serial PRIMARY KEY);
CREATE TABLE block (person text, blocked text, id serial PRIMARY KEY);
CREATE TABLE admin (person text, id serial PRIMARY KEY);
CREATE TABLE banned (person text, id serial PRIMARY KEY);
INSERT INTO channel SELECT generate_series(1, 8);
INSERT INTO message SELECT n % 8 + 1, 'u' || n % 29 + 1 FROM generate_series(1, 500) AS n;
INSERT INTO member SELECT 'u' || n % 29 + 1, n % 8 + 1 FROM generate_series(1, 60) AS n;
