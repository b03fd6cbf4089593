/**
 * What supervisors ask at the metrics address. /healthz: should this process be ended and started again? /readyz: will
 * clients be served, and if not, why? An overload is neither: whoever is served too little is not helped by a restart.
 */
import type { Source } from "../../pmu/source.js";
import type { NsClock } from "../clock.js";
import type { Liveness, LivenessWatch } from "./liveness.js";

/** Text for people, a line for each part. */
export interface Probe {
  readonly ok: boolean;
  readonly text: string;
}

export interface Probes {
  live(): Promise<Probe>;
  ready(): Promise<Probe>;
}

export type DaemonPhase = "starting" | "serving" | "stopping";

export interface HealthParts {
  readonly liveness: Pick<LivenessWatch, "check">;
  readonly source: Pick<Source, "description" | "whyNotAble">;
  /** Why the source stands in for the kernel's; null when it does not. */
  readonly fallbackReason: string | null;
  /** How many events the kernel samples now. */
  readonly armed: () => number;
  readonly phase: () => DaemonPhase;
  readonly now: NsClock;
}

/** Dispatchers get this long to answer: kubelet waits for a second unless it is told otherwise. */
const ANSWER_MS = 800;
/** Trying to open an event costs system calls: whoever asks more often gets the same answer. */
const TRY_AGAIN_NS = 1_000_000_000;

export class Health implements Probes {
  readonly #parts: HealthParts;
  #tried: { readonly atNs: number; readonly whyNot: string | null } | null = null;

  constructor(parts: HealthParts) {
    this.#parts = parts;
  }

  /** That this is answered at all is the main thread's part of it. */
  async live(): Promise<Probe> {
    const liveness = await this.#parts.liveness.check(ANSWER_MS);
    const ok = liveness.stalled.length === 0;
    return { ok, text: lines([ok ? "alive" : "not alive", ...dispatcherLines(liveness)]) };
  }

  async ready(): Promise<Probe> {
    const { liveness, source, fallbackReason, phase } = this.#parts;
    const { stalled } = await liveness.check(ANSWER_MS);
    const why: string[] = [];
    if (phase() === "starting") why.push("starting: it does not listen for clients yet");
    if (phase() === "stopping") why.push("stopping: streams are being ended, new handlers are refused");
    for (const d of stalled) why.push(`dispatcher ${d} is stalled: the samples of its CPUs wait in their rings`);
    const whyNotAble = this.#whyNotAble();
    if (whyNotAble !== null) why.push(`source: ${whyNotAble}`);
    const ok = why.length === 0;
    const about = fallbackReason === null ? [] : [`NO LIVE SAMPLES, a recording stands in: ${fallbackReason}`];
    return { ok, text: lines([ok ? "ready" : "not ready", ...why, ...about, `source: ${source.description}`]) };
  }

  /** What samples now needs no trying. */
  #whyNotAble(): string | null {
    const { source, armed, now } = this.#parts;
    if (armed() > 0 || source.whyNotAble === undefined) return null;
    if (this.#tried === null || now() - this.#tried.atNs >= TRY_AGAIN_NS) {
      this.#tried = { atNs: now(), whyNot: source.whyNotAble() };
    }
    return this.#tried.whyNot;
  }
}

function dispatcherLines({ unansweredSeconds, stalled }: Liveness): string[] {
  return unansweredSeconds.map((seconds, d) => {
    if (seconds === 0) return `dispatcher ${d}: alive`;
    const what = stalled.includes(d) ? "stalled" : "late";
    return `dispatcher ${d}: ${what}, it has not answered for ${seconds.toFixed(1)} s`;
  });
}

function lines(all: readonly string[]): string {
  return `${all.join("\n")}\n`;
}
