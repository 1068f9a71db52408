// What one does with files, each as one mutation. The rules that decide whether it is taken are in
// rowtide.toml; what is refused is taken back by itself, and said in a toast.

import type { File, FileState, Transaction } from './data';

/** How files are given to others. */
export type Sharing = 'private' | 'view' | 'edit';

export function sharingOf(file: File): Sharing {
  if (!file.shared) return 'private';
  return file.sharedLinkType === 'edit' ? 'edit' : 'view';
}

/** A new file, and its owner's state for it, together. */
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

/** A file that is no longer shared is gone for its guests at once. */
export function share(tx: Transaction, id: string, sharing: Sharing): void {
  if (sharing === 'private') tx.file.update({ id, shared: false });
  else tx.file.update({ id, shared: true, sharedLinkType: sharing });
}

/** Pins are one's own, also on the files of others. */
export function pin(tx: Transaction, user: string, fileId: string, state: FileState | undefined): void {
  if (state) tx.file_state.update({ userId: user, fileId, isPinned: !state.isPinned });
  else tx.file_state.insert({ userId: user, fileId, isPinned: true });
}

/** Nobody can bring it back: what can be undone has to wait before this. */
export function remove(tx: Transaction, id: string): void {
  tx.file.update({ id, isDeleted: true });
}

/** Follows a link: from now on the file is in one's list, while it is shared. */
export function visit(tx: Transaction, user: string, fileId: string): void {
  const now = Date.now();
  tx.file_state.insert({ userId: user, fileId, firstVisitAt: now, lastVisitAt: now });
}

/** Takes a file of somebody else out of one's list. */
export function leave(tx: Transaction, user: string, fileId: string): void {
  tx.file_state.delete({ userId: user, fileId });
}
