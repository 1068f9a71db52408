// The page: what the server tells of the application, and two people who are signed in to it.

import { announce, element } from './dom.js';
import { Person } from './person.js';

const people = document.getElementById('people');

async function start() {
  const response = await fetch('/playground/info');
  if (!response.ok) throw new Error(await response.text());
  const info = await response.json();
  document.getElementById('application').textContent = info.application;
  document.title = `${info.application} · Rowtide playground`;
  showPsql(info.psql);
  const wanted = new URLSearchParams(location.search);
  const [left = 'u1', right = 'u2'] = info.users;
  people.append(
    new Person(info, 'Left', wanted.get('left') ?? left).element,
    new Person(info, 'Right', wanted.get('right') ?? right).element,
  );
}

function showPsql(line) {
  const code = document.getElementById('psql');
  const copy = document.getElementById('copy');
  code.textContent = line;
  code.parentElement.hidden = false;
  copy.addEventListener('click', async () => {
    try {
      await navigator.clipboard.writeText(line);
      copy.textContent = 'Copied';
      announce('Copied');
    } catch {
      getSelection().selectAllChildren(code);
      announce('Selected: copy it with your keyboard');
    }
    setTimeout(() => {
      copy.textContent = 'Copy';
    }, 2000);
  });
}

start().catch((error) => {
  people.append(element('p', { className: 'failed', role: 'alert' }, `The playground cannot start: ${error.message}`));
});
