INSERT INTO workspace VALUES ('garden', 'Garden'), ('kitchen', 'Kitchen');
INSERT INTO member VALUES
  ('garden', 'ada', 'editor'), ('garden', 'ben', 'editor'), ('garden', 'cleo', 'reader'),
  ('kitchen', 'ben', 'editor'), ('kitchen', 'dora', 'editor');
INSERT INTO note (id, workspace_id, title) VALUES
  ('spring', 'garden', 'What to plant in spring'), ('tools', 'garden', 'Tools to mend'),
  ('bread', 'kitchen', 'Bread');
