// Written by `rowtide types`: run it again when the tables or the definition change.

export interface Schema {
  user: {
    row: {
      id: string;
      name: string;
      email: string;
      avatar: string;
      color: string;
      exportFormat: string;
      exportTheme: string;
      exportBackground: boolean;
      exportPadding: boolean;
      createdAt: number;
      updatedAt: number;
      flags: string;
      locale: string | null;
      animationSpeed: number | null;
      edgeScrollSpeed: number | null;
      colorScheme: string | null;
      isSnapMode: boolean | null;
      isWrapMode: boolean | null;
      isDynamicSizeMode: boolean | null;
      isPasteAtCursorMode: boolean | null;
      allowAnalyticsCookie: boolean | null;
    };
    insert: {
      id: string;
      name: string;
      email: string;
      avatar: string;
      color: string;
      exportFormat: string;
      exportTheme: string;
      exportBackground: boolean;
      exportPadding: boolean;
      createdAt: number;
      updatedAt: number;
      flags: string;
      locale?: string | null;
      animationSpeed?: number | null;
      edgeScrollSpeed?: number | null;
      colorScheme?: string | null;
      isSnapMode?: boolean | null;
      isWrapMode?: boolean | null;
      isDynamicSizeMode?: boolean | null;
      isPasteAtCursorMode?: boolean | null;
      allowAnalyticsCookie?: boolean | null;
    };
    update: {
      name?: string;
      color?: string;
      exportFormat?: string;
      exportTheme?: string;
      exportBackground?: boolean;
      exportPadding?: boolean;
      updatedAt?: number;
      locale?: string | null;
      animationSpeed?: number | null;
      edgeScrollSpeed?: number | null;
      colorScheme?: string | null;
      isSnapMode?: boolean | null;
      isWrapMode?: boolean | null;
      isDynamicSizeMode?: boolean | null;
      isPasteAtCursorMode?: boolean | null;
      allowAnalyticsCookie?: boolean | null;
    };
    key: 'id';
  };
  file: {
    row: {
      id: string;
      name: string;
      ownerId: string;
      ownerName: string;
      ownerAvatar: string;
      thumbnail: string;
      shared: boolean;
      sharedLinkType: string;
      published: boolean;
      lastPublished: number;
      publishedSlug: string;
      createdAt: number;
      updatedAt: number;
      isEmpty: boolean;
      isDeleted: boolean;
      createSource: string | null;
    };
    insert: {
      id: string;
      name: string;
      ownerId: string;
      thumbnail: string;
      shared: boolean;
      sharedLinkType: string;
      published: boolean;
      lastPublished: number;
      publishedSlug: string;
      createdAt: number;
      updatedAt: number;
      isEmpty: boolean;
      isDeleted?: boolean;
      createSource?: string | null;
    };
    update: {
      name?: string;
      thumbnail?: string;
      shared?: boolean;
      sharedLinkType?: string;
      published?: boolean;
      lastPublished?: number;
      publishedSlug?: string;
      updatedAt?: number;
      isEmpty?: boolean;
      isDeleted?: boolean;
    };
    key: 'id';
  };
  file_state: {
    row: {
      userId: string;
      fileId: string;
      firstVisitAt: number | null;
      lastEditAt: number | null;
      lastSessionState: string | null;
      lastVisitAt: number | null;
      isFileOwner: boolean;
      isPinned: boolean;
    };
    insert: {
      userId: string;
      fileId: string;
      firstVisitAt?: number | null;
      lastEditAt?: number | null;
      lastSessionState?: string | null;
      lastVisitAt?: number | null;
      isPinned?: boolean;
    };
    update: {
      lastEditAt?: number | null;
      lastSessionState?: string | null;
      lastVisitAt?: number | null;
      isPinned?: boolean;
    };
    key: 'userId' | 'fileId';
  };
}

export const tables = {
  user: { key: ['id'] },
  file: { key: ['id'] },
  file_state: { key: ['userId', 'fileId'] },
} as const;
