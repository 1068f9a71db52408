// As `rowtide types` writes it.
export type Float = number | 'NaN' | 'Infinity' | '-Infinity';

export interface Schema {
  file: {
    row: { id: string; name: string; shared: boolean; createSource: string | null; size: number; ownerName?: string };
    insert: { id: string; name: string; shared: boolean; createSource?: string | null; size?: Float };
    update: { name?: string; shared?: boolean };
    key: 'id';
  };
  file_state: {
    row: { userId: string; fileId: string; stage: 'todo' | 'done' };
    insert: { userId: string; fileId: string; stage?: 'todo' | 'done' };
    update: { stage?: 'todo' | 'done' };
    key: 'userId' | 'fileId';
  };
  user: { row: { id: string; name: string }; insert: never; update: never; key: 'id' };
}

export const tables = {
  file: { key: ['id'], defaults: { createSource: null, size: 0 } },
  file_state: { key: ['userId', 'fileId'] },
  user: { key: ['id'] },
} as const;

export interface Queries {
  channel: { channel: number | null; since?: string | null };
  recent: { count?: number | null };
  mine: {};
}
