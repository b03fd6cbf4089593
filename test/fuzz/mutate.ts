/** Byte-level mutations: the same for the same random numbers. */

export type Random = () => number;

const below = (random: Random, limit: number): number => Math.floor(random() * limit);

/** Where lengths, counts and types turn over. */
const EXTREMES = [
  ...[0n, 1n, 7n, 8n, 9n, 0x7fn, 0xffn, 0x7fffn, 0xfff8n, 0xffffn, 0x1_0000n, 0x7fff_ffffn, 0x8000_0000n],
  ...[0xffff_ffffn, 1n << 32n, (1n << 53n) - 1n, 1n << 53n, 1n << 61n, (1n << 63n) - 1n, 1n << 63n, (1n << 64n) - 1n],
  ...[(1n << 64n) - 8n, 0x2000_0000_0000_0001n],
];

/** One to eight changes; now and then a part of `other`. */
export function mutate(
  input: Uint8Array,
  other: Uint8Array,
  dictionary: readonly Uint8Array[],
  bytesMax: number,
  random: Random,
): Uint8Array {
  let bytes = input.slice(0, bytesMax);
  for (let left = 1 + below(random, 8) * below(random, 2); left > 0; left--)
    bytes = change(bytes, other, dictionary, random);
  return bytes.subarray(0, bytesMax);
}

function change(
  bytes: Uint8Array,
  other: Uint8Array,
  dictionary: readonly Uint8Array[],
  random: Random,
): Uint8Array<ArrayBuffer> {
  // Headers decide most.
  const reach = random() < 0.3 ? Math.min(bytes.length, 256) : bytes.length;
  const at = below(random, reach + 1);
  const length = 1 + below(random, random() < 0.8 ? 16 : Math.max(16, bytes.length));
  switch (below(random, 10)) {
    case 0:
    case 1:
      return overwrite(bytes, at, [below(random, 256)]);
    case 2:
      return overwrite(bytes, at, [(bytes[at] ?? 0) ^ (1 << below(random, 8))]);
    case 3:
    case 4:
      return overwriteNumber(bytes, random() < 0.8 ? at & ~7 : at, random);
    case 5:
      return splice(bytes, at, length, new Uint8Array(0));
    case 6:
      return random() < 0.3 ? bytes.slice(0, at) : splice(bytes, at, 0, repeated(bytes, at, length, random));
    case 7: {
      const from = below(random, other.length + 1);
      return splice(bytes, at, below(random, 2) * length, other.subarray(from, from + length));
    }
    default: {
      const word = dictionary[below(random, dictionary.length)] ?? new Uint8Array(0);
      return random() < 0.5 ? overwrite(bytes, at, word) : splice(bytes, at, 0, word);
    }
  }
}

/** Something that is there already, up to 64 times: what takes the square of its length shows. */
function repeated(bytes: Uint8Array, at: number, length: number, random: Random): Uint8Array {
  const piece = bytes.subarray(at, at + length);
  const times = 1 + below(random, random() < 0.9 ? 4 : 64);
  const all = new Uint8Array(piece.length * times);
  for (let i = 0; i < times; i++) all.set(piece, i * piece.length);
  return all;
}

/** In either byte order. */
function overwriteNumber(bytes: Uint8Array, at: number, random: Random): Uint8Array<ArrayBuffer> {
  const width = 1 << below(random, 4);
  const value = EXTREMES[below(random, EXTREMES.length)] ?? 0n;
  const own = Array.from({ length: width }, (_, i) => Number((value >> BigInt(i * 8)) & 0xffn));
  const offset = random() < 0.3 ? 6 : random() < 0.3 ? 4 : 0;
  return overwrite(bytes, at + offset, random() < 0.1 ? own.reverse() : own);
}

function overwrite(bytes: Uint8Array, at: number, word: ArrayLike<number>): Uint8Array<ArrayBuffer> {
  const copy = bytes.slice() as Uint8Array<ArrayBuffer>;
  for (let i = 0; i < word.length && at + i < copy.length; i++) copy[at + i] = word[i];
  return copy;
}

function splice(bytes: Uint8Array, at: number, remove: number, insert: Uint8Array): Uint8Array<ArrayBuffer> {
  const rest = bytes.subarray(Math.min(bytes.length, at + remove));
  const all = new Uint8Array(at + insert.length + rest.length);
  all.set(bytes.subarray(0, at));
  all.set(insert, at);
  all.set(rest, at + insert.length);
  return all;
}

/** Leaves out what is not needed for `fails` to hold, then zeroes what it can; at most `tries` tries. */
export function minimise(input: Uint8Array, fails: (candidate: Uint8Array) => boolean, tries: number): Uint8Array {
  let best = input;
  let left = tries;
  const better = (candidate: Uint8Array): boolean => {
    if (left-- <= 0 || !fails(candidate)) return false;
    best = candidate;
    return true;
  };
  for (let size = best.length; size >= 1 && left > 0; size >>= 1) {
    for (let at = 0; at < best.length && left > 0; ) if (!better(splice(best, at, size, new Uint8Array(0)))) at += size;
  }
  for (let at = 0; at < best.length && left > 0; at++) if (best[at] !== 0) better(overwrite(best, at, [0]));
  return best;
}
