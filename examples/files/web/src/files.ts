// What a user does with files, each as one mutation. The rules that allow it are in rowtide.toml. The
// client no longer shows a mutation that the server has rejected, and a toast says why.

import type { File, FileState, Transaction } from './data';

/** How a file is shared with others. */
export type Sharing = 'private' | 'view' | 'edit';

export function sharingOf(file: File): Sharing {
  if (!file.shared) return 'private';
  return file.sharedLinkType === 'edit' ? 'edit' : 'view';
}

/** Creates a file and its owner's state for it, in one mutation. */
export function create(tx: Transaction, user: string, id: string, name: string): void {
  const now = Date.now();
  tx.file.insert({
    id,
    name,
    ownerId: user,
    thumbnail: '',
    shared: false,
    sharedLinkType: 'view',
    published: false,
    lastPublished: 0,
    publishedSlug: id,
    createdAt: now,
    updatedAt: now,
    isEmpty: true,
  });
  tx.file_state.insert({ userId: user, fileId: id, firstVisitAt: now, lastVisitAt: now });
}

export function rename(tx: Transaction, id: string, name: string): void {
  tx.file.update({ id, name, updatedAt: Date.now() });
}

/** Shares a file, or ends that: its guests lose a file that is no longer shared at once. */
export function share(tx: Transaction, id: string, sharing: Sharing): void {
  if (sharing === 'private') tx.file.update({ id, shared: false });
  else tx.file.update({ id, shared: true, sharedLinkType: sharing });
}

/** Publishes a file, or what has become of it since: the server makes a copy for everybody with the link. */
export function publish(tx: Transaction, { id, publishedSlug }: File): void {
  tx.file.update({ id, published: true, publishedSlug, lastPublished: Date.now() });
}

/** Takes the public copy of a file back. */
export function unpublish(tx: Transaction, id: string): void {
  tx.file.update({ id, published: false });
}

/** Pins a file, or removes the pin. Each user has their own pins, also on the files of others. */
export function pin(tx: Transaction, user: string, fileId: string, state: FileState | undefined): void {
  if (state) tx.file_state.update({ userId: user, fileId, isPinned: !state.isPinned });
  else tx.file_state.insert({ userId: user, fileId, isPinned: true });
}

/** Deletes a file. Nobody can restore it, so offer “Undo” before this. */
export function remove(tx: Transaction, id: string): void {
  tx.file.update({ id, isDeleted: true });
}

/** Follows a link: the file is in the user's list from now on, as long as it is shared. */
export function visit(tx: Transaction, user: string, fileId: string): void {
  const now = Date.now();
  tx.file_state.insert({ userId: user, fileId, firstVisitAt: now, lastVisitAt: now });
}

/** Removes a file of somebody else from the user's list. */
export function leave(tx: Transaction, user: string, fileId: string): void {
  tx.file_state.delete({ userId: user, fileId });
}
