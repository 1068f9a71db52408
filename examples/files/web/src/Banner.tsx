// What one has to know of the connection: nothing, as long as it holds.

import type { Status } from '@rowtide/client';
import { useLasting } from './lasting';

/** How long a connection may be away before it is said, in milliseconds: a page that loads is not offline. */
const PATIENCE = 1_500;

export function Banner({ status }: { status: Status }) {
  const isAway = status.connection !== 'live';
  const isOffline = useLasting(isAway, status.connection === 'offline' && !navigator.onLine ? 0 : PATIENCE);
  if (status.error?.code === 'client_too_old') {
    return (
      <div className="too-old" role="alertdialog" aria-labelledby="too-old-title" aria-modal="true">
        <div>
          <h2 id="too-old-title">Please reload</h2>
          <p>
            There is a newer version of this page, and the server no longer takes this one. What you have changed is
            kept.
          </p>
          <button type="button" className="primary" autoFocus onClick={() => location.reload()}>
            Reload
          </button>
        </div>
      </div>
    );
  }
  if (!isOffline) return null;
  const waiting = status.pending === 1 ? '1 change is' : `${status.pending} changes are`;
  return (
    <p className="banner" role="status">
      <b>You are offline.</b>{' '}
      {status.pending > 0
        ? `${waiting} kept, and sent when you are back.`
        : 'You can go on; changes are sent when you are back.'}
    </p>
  );
}
