/** A Delivery of samples such as the daemon writes, made once: what the bare server sends again and again. */

/** Field number and bytes an element of SampleBatch's columns, as the daemon writes them. */
const COLUMNS = [
  [3, 8],
  [4, 8],
  [5, 4],
  [6, 4],
  [7, 4],
  [8, 8],
] as const;
const BYTES_PER_SAMPLE = 36;
/** The daemon encodes a batch at a time. */
const SAMPLES_PER_RUN = 1024;
const SEQUENCE_TAG = (2 << 3) | 1;
const SAMPLES_TAG = (2 << 3) | 2;
const LENGTH_DELIMITED = 2;

/** The smallest message of at least `bytes` bytes of samples. One sample at least. */
export function prepareMessage(bytes: number): Buffer {
  const samples = Math.max(1, Math.ceil(bytes / BYTES_PER_SAMPLE));
  const parts: Buffer[] = [Buffer.from([SEQUENCE_TAG]), Buffer.alloc(8)];
  for (let left = samples; left > 0; left -= SAMPLES_PER_RUN) {
    const run = Math.min(left, SAMPLES_PER_RUN);
    for (const [field, elementBytes] of COLUMNS) {
      const column = Buffer.alloc(run * elementBytes, 0x5a);
      parts.push(Buffer.from([(field << 3) | LENGTH_DELIMITED, ...varint(column.length)]), column);
    }
  }
  const body = Buffer.concat(parts);
  return Buffer.concat([Buffer.from([SAMPLES_TAG, ...varint(body.length)]), body]);
}

function varint(value: number): number[] {
  const bytes: number[] = [];
  let rest = value;
  for (; rest > 0x7f; rest >>>= 7) bytes.push((rest & 0x7f) | 0x80);
  bytes.push(rest);
  return bytes;
}
