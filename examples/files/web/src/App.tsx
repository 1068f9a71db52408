// Who is signed in decides what there is: a client for each user, made when they sign in and let go of
// when they sign out.

import type { Client } from '@rowtide/client';
import { RowtideProvider } from '@rowtide/react';
import { useEffect, useState } from 'react';
import { remember, signedIn } from './account';
import { openClient } from './data';
import { Files } from './Files';
import type { Schema } from './schema';
import { SignIn } from './SignIn';
import { Toasts } from './toasts';

export function App() {
  const [user, setUser] = useState(signedIn);
  const signIn = (next: string) => {
    remember(next);
    setUser(next);
  };
  const signOut = () => {
    remember(null);
    setUser(null);
  };
  if (user === null) return <SignIn onSignIn={signIn} />;
  return <SignedIn key={user} user={user} onSignOut={signOut} />;
}

function SignedIn({ user, onSignOut }: { user: string; onSignOut: () => void }) {
  const [client, setClient] = useState<Client<Schema> | null>(null);
  useEffect(() => {
    const opened = openClient(user);
    setClient(opened);
    return () => void opened.close();
  }, [user]);
  if (client === null) return null;
  const leave = async () => {
    // What is kept in this browser is the user's alone.
    await client.signOut();
    onSignOut();
  };
  return (
    <RowtideProvider client={client}>
      <Toasts>
        <Files user={user} onSignOut={() => void leave()} />
      </Toasts>
    </RowtideProvider>
  );
}
