/** The files below format/ of a PMU: which bits of which attr word a term's value goes to. */

/** perf_event_attr.config, config1, config2, config3 */
export type ConfigWord = 0 | 1 | 2 | 3;

export interface FormatField {
  readonly word: ConfigWord;
  /** Lowest bits of the value first; each range from its first bit to its last. */
  readonly ranges: readonly (readonly [first: number, last: number])[];
  /** How many bits a value may have. */
  readonly width: number;
}

const WORDS: Readonly<Record<string, ConfigWord>> = { config: 0, config1: 1, config2: 2, config3: 3 };

/** `config:0-7,32-35` or `config1:23`; null for what no kernel writes. */
export function parseFormat(text: string): FormatField | null {
  const [, name = "", bits = ""] = /^(config[123]?):(\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*)$/.exec(text.trim()) ?? [];
  const word = WORDS[name];
  if (word === undefined) return null;
  const ranges = bits.split(",").map((range): readonly [number, number] => {
    const [first, last = first] = range.split("-").map(Number);
    return [first, last];
  });
  if (ranges.some(([first, last]) => !(first >= 0 && first <= last && last < 64))) return null;
  return { word, ranges, width: ranges.reduce((sum, [first, last]) => sum + last - first + 1, 0) };
}

/** The largest value that fits. */
export function formatMax({ width }: FormatField): bigint {
  return (1n << BigInt(Math.min(width, 64))) - 1n;
}

export type ConfigWords = [bigint, bigint, bigint, bigint];

/** Puts `value` into its place; what stood there before is gone. */
export function applyFormat({ word, ranges }: FormatField, value: bigint, config: ConfigWords): void {
  let rest = value;
  for (const [first, last] of ranges) {
    const width = BigInt(last - first + 1);
    const mask = (1n << width) - 1n;
    config[word] = (config[word] & ~(mask << BigInt(first))) | ((rest & mask) << BigInt(first));
    rest >>= width;
  }
}
