-- Two organisations. Ada leads the design team of acme, ben is in it; cleo leads the sales team of globex; mia
-- manages acme, as its token says; dora is in no team; root is staff.
INSERT INTO organisation VALUES
  ('acme', 'Acme', 'business', 'cus_4711'), ('globex', 'Globex', 'free', 'cus_4712');
INSERT INTO person VALUES
  ('ada', 'Ada', 'ada@acme.example', '$2b$hash-of-ada', 'JBSWY3DP'), ('ben', 'Ben', 'ben@acme.example', '$2b$hash-of-ben', NULL),
  ('cleo', 'Cleo', 'cleo@globex.example', '$2b$hash-of-cleo', NULL), ('dora', 'Dora', 'dora@studio.example', '$2b$hash-of-dora', NULL),
  ('mia', 'Mia', 'mia@acme.example', '$2b$hash-of-mia', NULL),
  ('root', 'Root', 'root@product.example', '$2b$hash-of-root', NULL);
INSERT INTO admin VALUES ('root');
INSERT INTO team VALUES
  ('10000000-0000-4000-8000-000000000001', 'acme', 'Design'), ('10000000-0000-4000-8000-000000000002', 'acme', 'Sales'),
  ('10000000-0000-4000-8000-000000000003', 'globex', 'Sales');
INSERT INTO member VALUES
  ('10000000-0000-4000-8000-000000000001', 'ada', 'lead'), ('10000000-0000-4000-8000-000000000001', 'ben', 'member'),
  ('10000000-0000-4000-8000-000000000003', 'cleo', 'lead');
INSERT INTO project VALUES
  ('20000000-0000-4000-8000-000000000001', '10000000-0000-4000-8000-000000000001', 'A new logo'),
  ('20000000-0000-4000-8000-000000000002', '10000000-0000-4000-8000-000000000002', 'Customers of 2027'),
  ('20000000-0000-4000-8000-000000000003', '10000000-0000-4000-8000-000000000003', 'Leads');
INSERT INTO invoice (organisation_id, amount, paid) VALUES ('acme', 120, true), ('acme', 140, false), ('globex', 10, false);
INSERT INTO invitation VALUES
  ('30000000-0000-4000-8000-000000000001', '10000000-0000-4000-8000-000000000001', 'dora@studio.example',
   '40000000-0000-4000-8000-000000000001', now() + interval '7 days'),
  ('30000000-0000-4000-8000-000000000002', '10000000-0000-4000-8000-000000000003', 'dora@studio.example',
   '40000000-0000-4000-8000-000000000002', now() - interval '1 day');
