/**
 * How much memory a message's frame takes in the transport. Frames are used again (grpc/frame-pool.ts), so they come in
 * sizes: eight for each doubling, so that a frame is at most an eighth longer than what it holds.
 */

/** Compressed flag and length: github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, "Length-Prefixed-Message". */
export const FRAME_HEADER_BYTES = 5;
/** Smaller frames come from Node's own pool, as long as what they hold. */
export const SIZED_FRAME_BYTES_MIN = 4096;
const SIZES_PER_DOUBLING = 8;

function sizeStep(bytes: number): number {
  return 2 ** Math.floor(Math.log2(bytes)) / SIZES_PER_DOUBLING;
}

/** Of the frame for a message of `messageBytes`. */
export function frameBytes(messageBytes: number): number {
  const bytes = FRAME_HEADER_BYTES + messageBytes;
  if (bytes < SIZED_FRAME_BYTES_MIN) return bytes;
  const step = sizeStep(bytes);
  return Math.ceil(bytes / step) * step;
}

/** The largest message whose frame takes no more than `bytes`; negative when there is none. */
export function messageBytesIn(bytes: number): number {
  if (bytes < SIZED_FRAME_BYTES_MIN) return bytes - FRAME_HEADER_BYTES;
  const step = sizeStep(bytes);
  return Math.floor(bytes / step) * step - FRAME_HEADER_BYTES;
}
