// Who is signed in decides what there is: a client for each user, made when they sign in and let go of
// when they sign out.

import type { Client } from '@rowtide/client';
import { RowtideProvider } from '@rowtide/react';
import { useEffect, useRef, useState } from 'react';
import { remember, signedIn } from './account';
import { Board } from './board/Board';
import { Published } from './board/Published';
import { openClient } from './data';
import { useDeletions } from './deletions';
import { Files } from './Files';
import { useRoute } from './route';
import type { Route } from './route';
import type { Schema } from './schema';
import { SignIn } from './SignIn';
import { Toasts } from './toasts';
import { useVisits } from './visits';

export function App() {
  const [user, setUser] = useState(signedIn);
  const route = useRoute();
  const signIn = (next: string) => {
    remember(next);
    setUser(next);
  };
  const signOut = () => {
    remember(null);
    setUser(null);
  };
  if (route.page === 'published') return <Published slug={route.slug} />;
  if (user === null) return <SignIn onSignIn={signIn} />;
  return <SignedIn key={user} user={user} route={route} onSignOut={signOut} />;
}

interface Props {
  user: string;
  route: Route;
  onSignOut: () => void;
}

function SignedIn({ user, route, onSignOut }: Props) {
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
        <Pages user={user} route={route} onSignOut={() => void leave()} />
      </Toasts>
    </RowtideProvider>
  );
}

function Pages({ user, route, onSignOut }: Props) {
  // A deletion can be undone wherever one has gone meanwhile.
  const deletions = useDeletions();
  const visit = useVisits(user);
  const visited = useRef<string | null>(null);
  if (route.page === 'file') visited.current = route.id;
  if (route.page === 'file') return <Board user={user} id={route.id} onOpened={visit} />;
  return <Files user={user} deletions={deletions} visited={visited.current} onSignOut={onSignOut} />;
}
