import { useEffect, useState } from 'react';
import type { FormEvent } from 'react';
import { people } from './account';

/** How many people are proposed. */
const PROPOSED = 12;

export function SignIn({ onSignIn }: { onSignIn: (user: string) => void }) {
  const [proposed, setProposed] = useState<string[]>([]);
  const [problem, setProblem] = useState('');
  useEffect(() => {
    people().then(
      (found) => setProposed(found.slice(0, PROPOSED)),
      () => setProblem('The server does not answer. Is rowtide dev running?'),
    );
  }, []);
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const user = String(new FormData(event.currentTarget).get('user') ?? '').trim();
    if (user !== '') onSignIn(user);
  };
  return (
    <main className="sign-in">
      <img src="/icon.svg" alt="" width="44" height="44" />
      <h1>Files</h1>
      <p>Sign in as anyone. Open a second window as somebody else, and share a file with them.</p>
      {problem && (
        <p className="problem" role="alert">
          {problem}
        </p>
      )}
      <ul className="people">
        {proposed.map((user) => (
          <li key={user}>
            <button type="button" onClick={() => onSignIn(user)}>
              {user}
            </button>
          </li>
        ))}
      </ul>
      <form onSubmit={submit}>
        <input
          name="user"
          aria-label="The id of a user"
          placeholder="Another user id, u1 to u1000"
          autoComplete="off"
        />
        <button type="submit" className="primary">
          Sign in
        </button>
      </form>
    </main>
  );
}
