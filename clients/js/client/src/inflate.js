/**
 * Deflated frames. Between a socket and its connection it puts a queue in which binary frames are inflated, beside the
 * page's thread, and what comes behind them waits its turn. A frame that is broken ends the connection, and none is
 * asked for again. Loaded by connections where the page can inflate.
 */

/** The longest text of a frame, in bytes: one that goes on and on must not fill the memory. */
const MOST_BYTES = 2 ** 28;

/** Whether a frame was broken. */
let broken = false;

/**
 * The text of a frame.
 * @param {any} frame whatever a socket gives: a `Blob`, an `ArrayBuffer`, a view
 * @param {number} [most] bytes
 * @returns {Promise<string>}
 */
export function textOf(frame, most = MOST_BYTES) {
  let bytes = 0;
  const bounded = new TransformStream({
    transform(part, out) {
      if ((bytes += part.length) > most) throw new RangeError(`its text has more than ${most} bytes`);
      out.enqueue(part);
    },
  });
  const parts = /** @type {ReadableStream} */ (new Response(frame).body).pipeThrough(new DecompressionStream('deflate-raw'));
  return new Response(parts.pipeThrough(bounded)).text();
}

/**
 * Inflates what comes over a socket whose handlers are set. What `connect` says in `accept`; nothing where there is
 * nothing that inflates.
 * @param {WebSocket} socket
 */
export function inflate(socket) {
  try {
    new DecompressionStream('deflate-raw');
  } catch {
    return;
  }
  if (broken) return;
  // A blob is read later, and who stands between the server and the page, as test tools do, may pass on sooner what comes behind it.
  socket.binaryType = 'arraybuffer';
  const hear = /** @type {(event: { data: string }) => void} */ (socket.onmessage);
  const end = /** @type {(event: { code?: number }) => void} */ (socket.onclose);
  /** @type {Promise<void> | undefined} */
  let queue;
  const inOrder = (/** @type {() => void} */ then) => {
    if (queue) queue = queue.then(then);
    else then();
  };
  socket.onmessage = ({ data }) => {
    if (typeof data === 'string') return inOrder(() => hear({ data }));
    const next = async () => {
      // Nothing of a connection that was given up.
      if (!socket.onmessage) return;
      try {
        data = await textOf(data);
      } catch (error) {
        broken = true;
        const message = `a deflated frame is broken: ${error}`;
        hear({ data: JSON.stringify({ type: 'error', code: 'protocol', message }) });
        return end({});
      }
      hear({ data });
    };
    queue = Promise.resolve(queue).then(next);
  };
  socket.onclose = (event) => inOrder(() => end(event));
  return ['deflate'];
}
