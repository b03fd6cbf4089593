/**
 * The zstd stream that perf spreads over COMPRESSED records. Frames and blocks are followed here (RFC 8878, 3.1.1), so
 * that no frame allocates a window that was not looked at first; what is in the blocks is fzstd's to decode.
 */
import { Decompress } from "fzstd";

/** As the zstd library's own limit (ZSTD_WINDOWLOG_LIMIT_DEFAULT): enough for every level that perf offers. */
export const WINDOW_BYTES_MAX = 1 << 27;

const MAGIC = 0xfd2f_b528;
const SKIPPABLE_MAGIC = 0x184d_2a50;
const BLOCK_BYTES_MAX = 1 << 17;
/**
 * The decoder moves its window along at every block, however short: so many bytes moved for each that is compressed, and
 * at least. At the highest level (128 MiB) that lets blocks be 8 KiB long, where perf's are up to 64; at the default one
 * (512 KiB) 32 bytes.
 */
const MOVED_RATIO_MAX = 1 << 14;
const MOVED_BYTES_MIN = 2 ** 32;
const BLOCK_TYPE = { RLE: 1, RESERVED: 3 } as const;
const DICTIONARY_ID_BYTES = [0, 1, 2, 4] as const;
const CHECKSUM_BYTES = 4;

/** Throws Error with a reason for people where the stream is no zstd stream, or declares too large a window. */
export class ZstdStream {
  readonly #decoder: Decompress;
  readonly #frames = new FrameFollower();

  /** `onData` gets what was decompressed, in pieces of up to 128 KiB; its bytes are its own. */
  constructor(onData: (bytes: Uint8Array) => void) {
    this.#decoder = new Decompress((bytes) => onData(bytes));
  }

  push(chunk: Uint8Array): void {
    this.#frames.push(chunk);
    this.#decoder.push(chunk);
  }
}

/** Knows where frames and blocks begin, however the stream is cut into chunks. */
class FrameFollower {
  /** Bytes of a header that is not complete. */
  readonly #header: number[] = [];
  /** Bytes up to the next header. */
  #skip = 0;
  #inFrame = false;
  #hasChecksum = false;
  #windowBytes = 0;
  /** Bytes that may still be moved. */
  #movesLeft = MOVED_BYTES_MIN;

  push(chunk: Uint8Array): void {
    let at = 0;
    this.#movesLeft += chunk.length * MOVED_RATIO_MAX;
    while (at < chunk.length) {
      if (this.#skip > 0) {
        const step = Math.min(this.#skip, chunk.length - at);
        this.#skip -= step;
        at += step;
        continue;
      }
      this.#header.push(chunk[at++] as number);
      const isComplete = this.#inFrame ? this.#readBlockHeader() : this.#readFrameHeader();
      if (isComplete) this.#header.length = 0;
    }
  }

  #little(at: number, bytes: number): number {
    let value = 0;
    for (let i = bytes - 1; i >= 0; i--) value = value * 256 + (this.#header[at + i] as number);
    return value;
  }

  #readBlockHeader(): boolean {
    if (this.#header.length < 3) return false;
    const word = this.#little(0, 3);
    const isLast = (word & 1) === 1;
    const type = (word >> 1) & 3;
    const size = word >> 3;
    if (type === BLOCK_TYPE.RESERVED) throw new Error("a block of a reserved type");
    if (size > BLOCK_BYTES_MAX) throw new Error(`a block of ${size} bytes`);
    this.#move();
    this.#skip = type === BLOCK_TYPE.RLE ? 1 : size;
    if (isLast) {
      this.#skip += this.#hasChecksum ? CHECKSUM_BYTES : 0;
      this.#inFrame = false;
    }
    return true;
  }

  #move(): void {
    this.#movesLeft -= this.#windowBytes;
    if (this.#movesLeft < 0)
      throw new Error(`blocks too short for a window of ${this.#windowBytes} bytes; record at a lower level of -z`);
  }

  #readFrameHeader(): boolean {
    if (this.#header.length < 5) return false;
    const magic = this.#little(0, 4);
    if ((magic & 0xffff_fff0) >>> 0 === SKIPPABLE_MAGIC) {
      if (this.#header.length < 8) return false;
      this.#skip = this.#little(4, 4);
      return true;
    }
    if (magic !== MAGIC) throw new Error("no zstd frame");
    const descriptor = this.#header[4] as number;
    const isSingleSegment = (descriptor & 0x20) !== 0;
    const sizeFlag = descriptor >> 6;
    const sizeBytes = sizeFlag === 0 ? (isSingleSegment ? 1 : 0) : 1 << sizeFlag;
    const dictionaryBytes = DICTIONARY_ID_BYTES[descriptor & 3] as number;
    const sizeAt = 5 + (isSingleSegment ? 0 : 1) + dictionaryBytes;
    if (this.#header.length < sizeAt + sizeBytes) return false;
    const window = isSingleSegment ? this.#little(sizeAt, sizeBytes) : windowBytes(this.#header[5] as number);
    if (window > WINDOW_BYTES_MAX)
      throw new Error(`a window of ${window} bytes, above the limit of ${WINDOW_BYTES_MAX}`);
    if (dictionaryBytes > 0 && this.#little(sizeAt - dictionaryBytes, dictionaryBytes) !== 0)
      throw new Error("a frame that needs a dictionary");
    this.#hasChecksum = (descriptor & 4) !== 0;
    this.#inFrame = true;
    this.#windowBytes = window;
    // It is allocated, and cleared.
    this.#move();
    return true;
  }
}

function windowBytes(descriptor: number): number {
  const base = 2 ** (10 + (descriptor >> 3));
  return base + (base / 8) * (descriptor & 7);
}
