/** `--source`: where records come from. */
import { accept, type Parsed, reject } from "./address.js";
import { SYNTHETIC } from "./limits.js";

export type SourceSpec =
  | { readonly kind: "auto" }
  | { readonly kind: "perf" }
  | { readonly kind: "replay"; readonly file: string }
  | {
      readonly kind: "synthetic";
      /** Samples a second, all CPUs together. */
      readonly ratePerSecond: number;
      /** null: as many as the machine has. */
      readonly cpus: number | null;
      readonly seed: number;
    };

export const SOURCE_SYNTAX = "auto, perf, replay:FILE or synthetic:RATE[,cpus=N][,seed=N]";
const REMEDY = `give ${SOURCE_SYNTAX}`;

export function parseSource(text: string): Parsed<SourceSpec> {
  const colon = text.indexOf(":");
  const kind = colon < 0 ? text : text.slice(0, colon);
  const rest = colon < 0 ? null : text.slice(colon + 1);
  switch (kind) {
    case "auto":
    case "perf":
      return rest === null ? accept({ kind }) : reject(text, `takes nothing behind ${kind}`, REMEDY);
    case "replay":
      return rest ? accept({ kind, file: rest }) : reject(text, "names no recording", "give replay:FILE");
    case "synthetic":
      return rest ? parseSynthetic(text, rest) : reject(text, "has no rate", "give synthetic:RATE in samples a second");
    default:
      return reject(text, "is no source", REMEDY);
  }
}

function parseSynthetic(text: string, rest: string): Parsed<SourceSpec> {
  const [rateText = "", ...options] = rest.split(",");
  const ratePerSecond = whole(rateText, SYNTHETIC.ratePerSecond);
  if (ratePerSecond === null) return outOfRange(text, "rate", SYNTHETIC.ratePerSecond);
  let cpus: number | null = null;
  let seed: number = SYNTHETIC.seed.default;
  const seen = new Set<string>();
  for (const option of options) {
    const [name = "", ...values] = option.split("=");
    if (name !== "cpus" && name !== "seed")
      return reject(text, `has an unknown option ${JSON.stringify(name)}`, REMEDY);
    if (seen.has(name)) return reject(text, `gives ${name} twice`, "give it once");
    seen.add(name);
    const number = whole(values.join("="), SYNTHETIC[name]);
    if (number === null) return outOfRange(text, name, SYNTHETIC[name]);
    if (name === "cpus") cpus = number;
    else seed = number;
  }
  return accept({ kind: "synthetic", ratePerSecond, cpus, seed });
}

interface Bounds {
  readonly min: number;
  readonly max: number;
}

function whole(text: string, { min, max }: Bounds): number | null {
  if (!/^\d{1,15}$/.test(text)) return null;
  const value = Number(text);
  return value >= min && value <= max ? value : null;
}

function outOfRange(text: string, name: string, { min, max }: Bounds): Parsed<never> {
  return reject(text, `has no usable ${name}`, `give a whole ${name} from ${min} to ${max}`);
}

/** As the operator would write it. */
export function formatSource(source: SourceSpec): string {
  switch (source.kind) {
    case "auto":
    case "perf":
      return source.kind;
    case "replay":
      return `replay:${source.file}`;
    case "synthetic":
      return `synthetic:${source.ratePerSecond}${source.cpus === null ? "" : `,cpus=${source.cpus}`},seed=${source.seed}`;
  }
}
