/** Two hexadecimal digits. @param {number} byte */
export const hex = (byte) => (byte | 256).toString(16).slice(1);

/** The text in base64 of the kind that tokens have. React Native has no `atob` and no `TextDecoder`. @param {string} base64 */
function decoded(base64) {
  let text = '';
  let held = 0;
  let bits = 0;
  for (let at = 0; at < base64.length; at++) {
    const code = base64.charCodeAt(at);
    held = (held << 6) | (code > 96 ? code - 71 : code === 95 ? 63 : code > 64 ? code - 65 : code > 47 ? code + 4 : 62);
    bits += 6;
    if (bits < 8) continue;
    bits -= 8;
    text += `%${hex((held >> bits) & 255)}`;
  }
  return decodeURIComponent(text);
}

/**
 * The claims of a token, unverified: the server verifies them.
 * @param {string | null} token a JWT; `null` is nobody's, whose `sub` is empty, as no user's is
 * @returns {{ sub: string, exp?: number }}
 */
export function claims(token) {
  if (token === null) return { sub: '' };
  let said;
  try {
    said = JSON.parse(decoded(token.split('.')[1].replace(/=+$/, '')));
  } catch {
    throw new Error('the token is not a JWT');
  }
  if (typeof said.sub !== 'string' || !said.sub) throw new Error('the token has no `sub`');
  return said;
}
