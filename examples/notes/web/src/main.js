// Workspaces and their notes are live rows; the text of the note that is open is a live document.

import { createClient } from '@rowtide/client';
import { PEOPLE, colour, person, signIn, signOut, token } from './people.js';
import { openText } from './text.js';

const root = document.querySelector('#root');

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function showSignIn() {
  const button = (who) =>
    element('button', { textContent: who, onclick: () => (signIn(who), location.reload()) });
  root.replaceChildren(
    element('main', { className: 'sign-in' }, element('h1', { textContent: 'Notes' }), 'Who are you?', ...PEOPLE.map(button)),
  );
}

function showNotes() {
  const db = createClient({
    url: `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/sync`,
    token,
    user: person(),
    tables: { workspace: { key: ['id'] }, member: { key: ['workspace_id', 'person_id'] }, note: { key: ['id'] } },
  });
  const nav = element('nav');
  const main = element('main', {}, element('h1', { textContent: 'Notes' }), element('p', { textContent: 'Choose a note.' }));
  root.replaceChildren(element('div', { className: 'app' }, nav, main));
  let open = null;

  const rows = (table) => db.table(table).all();
  const isEditor = (workspace) =>
    rows('member').some((of) => of.workspace_id === workspace && of.person_id === person() && of.role === 'editor');

  async function show(note) {
    const mayEdit = isEditor(note.workspace_id);
    open?.close();
    const shown = { id: note.id, mayEdit, close: () => {} };
    open = shown;
    const status = element('p', { role: 'status' });
    const people = element('ul', { className: 'people', ariaLabel: 'Who is here' });
    const title = element('h1', { textContent: note.title });
    const editor = element('div');
    main.replaceChildren(element('header', {}, title, people), status, editor);
    shown.title = title;
    const onChange = ({ status: said, people: here }) => {
      status.textContent = said;
      people.replaceChildren(...here.map((name) => element('li', { textContent: name, style: `background: ${colour(name)}` })));
    };
    const close = await openText(note.id, { parent: editor, mayEdit, onChange });
    if (open === shown) shown.close = close;
    else close();
  }

  function add(workspace) {
    const title = prompt('What is it called?', 'A new note');
    if (!title) return;
    const id = crypto.randomUUID();
    const { confirmed } = db.mutate((tx) => tx.note.insert({ id, workspace_id: workspace, title }));
    confirmed.then(() => show({ id, workspace_id: workspace, title }), (error) => alert(error.message));
  }

  function list() {
    const notes = [...rows('note')].sort((a, b) => a.title.localeCompare(b.title));
    const item = (note) => {
      const button = element('button', { textContent: note.title, onclick: () => show(note) });
      button.setAttribute('aria-current', String(open?.id === note.id));
      return element('li', {}, button);
    };
    const section = ({ id, name }) => {
      const items = notes.filter((note) => note.workspace_id === id).map(item);
      const parts = [element('h2', { textContent: name }), element('ul', {}, ...items)];
      if (isEditor(id)) parts.push(element('button', { textContent: `New note in ${name}`, onclick: () => add(id) }));
      return parts;
    };
    nav.replaceChildren(
      element('button', { textContent: `Sign out ${person()}`, onclick: () => (signOut(), location.reload()) }),
      ...[...rows('workspace')].sort((a, b) => a.name.localeCompare(b.name)).flatMap(section),
    );
    const note = notes.find((one) => one.id === open?.id);
    if (note && open.title) open.title.textContent = note.title;
    // A reader who becomes an editor, or the other way round, gets another editor.
    if (note && open.mayEdit !== isEditor(note.workspace_id)) show(note);
  }

  db.subscribe(list);
  list();
}

if (person()) showNotes();
else showSignIn();
