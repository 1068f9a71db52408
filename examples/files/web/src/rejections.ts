// The words for a rejection that a person sees. The messages of the server are for developers.

const WORDS: Record<string, string> = {
  max_files_reached: 'You have 200 files, and more are not possible. Delete one to make room.',
  forbidden: 'You are not allowed to do that.',
  not_found: 'That file is gone.',
  constraint: 'That does not fit what is there already.',
  too_large: 'That is too much at once.',
  rate_limit_exceeded: 'That was a little fast. Try again in a minute.',
};

/** The code of a rejection; `null` for any other error. */
export function codeOf(error: unknown): string | null {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' ? code : null;
}

/** A rejection in words. */
export function inWords(error: unknown): string {
  return WORDS[codeOf(error) ?? ''] ?? 'That did not work, and was taken back.';
}
