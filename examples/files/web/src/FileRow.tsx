import { memo, useEffect, useRef } from 'react';
import { useWrite } from './data';
import type { File, FileState } from './data';
import * as files from './files';
import { Menu } from './Menu';
import { Rename } from './Rename';
import { hashOf } from './route';
import { Thumbnail } from './Thumbnail';

interface Props {
  file: File;
  state: FileState | undefined;
  user: string;
  isRenamed: boolean;
  /** Whether one comes back from it. */
  isVisited: boolean;
  onRename: (id: string) => void;
  onRenamed: () => void;
  onShare: (id: string) => void;
  onDelete: (file: File) => void;
}

/** One file. It is drawn again only if it has changed. */
export const FileRow = memo(function FileRow(props: Props) {
  const { file, state, user, isRenamed, isVisited, onRename, onRenamed, onShare, onDelete } = props;
  const write = useWrite();
  const row = useRef<HTMLLIElement>(null);
  useEffect(() => {
    if (isVisited) row.current?.scrollIntoView({ block: 'center' });
  }, [isVisited]);
  const isOwner = file.ownerId === user;
  const isPinned = state?.isPinned === true;
  const sharing = files.sharingOf(file);
  const items = isOwner
    ? [
        { label: 'Rename', run: () => onRename(file.id) },
        { label: 'Share …', run: () => onShare(file.id) },
        { label: 'Delete', isDangerous: true, run: () => onDelete(file) },
      ]
    : [{ label: 'Remove from my list', isDangerous: true, run: () => write((tx) => files.leave(tx, user, file.id)) }];
  return (
    <li ref={row} className={isVisited ? 'file visited' : 'file'}>
      <Thumbnail id={file.id} isEmpty={file.isEmpty} />
      <div className="about">
        {isRenamed ? (
          <Rename file={file} onRenamed={onRenamed} />
        ) : (
          <a className="name" href={hashOf(file.id)}>
            {file.name}
          </a>
        )}
        <span className="details">
          <span>
            {isOwner ? 'You' : `From ${file.ownerName}`} ·{' '}
            <time dateTime={new Date(file.updatedAt).toISOString()}>{ago(file.updatedAt)}</time>
          </span>
          {sharing !== 'private' && (
            <span className="badge" title="Anyone with the link">
              {sharing === 'edit' ? 'Can edit' : 'Can view'}
            </span>
          )}
        </span>
      </div>
      <button
        type="button"
        className="icon pin"
        aria-pressed={isPinned}
        aria-label={`Pin ${file.name}`}
        title={isPinned ? 'Unpin' : 'Pin'}
        onClick={() => write((tx) => files.pin(tx, user, file.id, state))}
      >
        <svg viewBox="0 0 20 20" aria-hidden="true">
          <path d="M7 3h6l-.8 5.200 2.800 2.300v1.500H5v-1.500l2.800-2.300zM10 12v5" />
        </svg>
      </button>
      <Menu
        label={`Actions for ${file.name}`}
        items={items}
        face={
          <svg viewBox="0 0 20 20" aria-hidden="true" className="dots">
            <path d="M4 10h.01M10 10h.01M16 10h.01" />
          </svg>
        }
      />
    </li>
  );
});

const UNITS: [Intl.RelativeTimeFormatUnit, number][] = [
  ['year', 31_536_000],
  ['month', 2_592_000],
  ['day', 86_400],
  ['hour', 3_600],
  ['minute', 60],
];
const relative = new Intl.RelativeTimeFormat('en', { numeric: 'auto', style: 'narrow' });

/** How long ago, in words. */
function ago(time: number): string {
  const seconds = (Date.now() - time) / 1000;
  for (const [unit, length] of UNITS) {
    if (seconds >= length) return relative.format(-Math.floor(seconds / length), unit);
  }
  return 'just now';
}
