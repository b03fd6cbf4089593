/** `--source`: where records come from. */
import { accept, type Parsed, reject } from "./address.js";
import { REPLAY, SYNTHETIC } from "./limits.js";

export type SourceSpec =
  | { readonly kind: "auto" }
  | { readonly kind: "perf" }
  | {
      readonly kind: "replay";
      readonly file: string;
      /** 1 is the recorded pace, infinity ("max") as fast as the samples are taken. */
      readonly speed: number;
      /** Start over at the end. */
      readonly loop: boolean;
    }
  | {
      readonly kind: "synthetic";
      /** Samples a second, all CPUs together. */
      readonly ratePerSecond: number;
      /** null: as many as the machine has. */
      readonly cpus: number | null;
      readonly seed: number;
    };

export const SOURCE_SYNTAX = "auto, perf, replay:FILE[,speed=N|max][,loop] or synthetic:RATE[,cpus=N][,seed=N]";
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
      return parseReplay(text, rest ?? "");
    case "synthetic":
      return rest ? parseSynthetic(text, rest) : reject(text, "has no rate", "give synthetic:RATE in samples a second");
    default:
      return reject(text, "is no source", REMEDY);
  }
}

/** Options are taken from the end, since a file's name may hold commas. */
function parseReplay(text: string, rest: string): Parsed<SourceSpec> {
  let file = rest;
  let speed: number | null = null;
  let loop = false;
  for (;;) {
    const option = /,(loop|speed=[^,]*)$/.exec(file)?.[1];
    if (option === undefined) break;
    file = file.slice(0, -option.length - 1);
    const isLoop = option === "loop";
    if (isLoop ? loop : speed !== null) return reject(text, `gives ${isLoop ? "loop" : "speed"} twice`, "give it once");
    if (isLoop) loop = true;
    else speed = parseSpeed(option.slice("speed=".length));
    if (Number.isNaN(speed)) {
      const { min, max } = REPLAY.speed;
      return reject(text, "has no usable speed", `give a speed from ${min} to ${max}, or max`);
    }
  }
  if (file === "") return reject(text, "names no recording", "give replay:FILE");
  return accept({ kind: "replay", file, speed: speed ?? REPLAY.speed.default, loop });
}

/** NaN when it is none. */
function parseSpeed(text: string): number {
  if (text === "max") return Number.POSITIVE_INFINITY;
  const value = /^\d{1,7}(\.\d{1,6})?$/.test(text) ? Number(text) : Number.NaN;
  return value >= REPLAY.speed.min && value <= REPLAY.speed.max ? value : Number.NaN;
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

function formatSpeed(speed: number): string {
  if (speed === REPLAY.speed.default) return "";
  return `,speed=${Number.isFinite(speed) ? speed : "max"}`;
}

/** As the operator would write it. */
export function formatSource(source: SourceSpec): string {
  switch (source.kind) {
    case "auto":
    case "perf":
      return source.kind;
    case "replay":
      return `replay:${source.file}${formatSpeed(source.speed)}${source.loop ? ",loop" : ""}`;
    case "synthetic":
      return `synthetic:${source.ratePerSecond}${source.cpus === null ? "" : `,cpus=${source.cpus}`},seed=${source.seed}`;
  }
}
