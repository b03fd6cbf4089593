/** Opens the source the configuration asks for. `auto` falls back to the demo recording, and says why. */
import { fileURLToPath } from "node:url";
import { PmuError } from "../pmu/errors.js";
import { openPerfSource } from "../pmu/perf/source.js";
import { openReplaySource } from "../pmu/software/replay.js";
import { openSyntheticSource } from "../pmu/software/synthetic.js";
import type { Source } from "../pmu/source.js";
import type { SourceSpec } from "./config/source-spec.js";

export const DEMO_RECORDING = fileURLToPath(new URL("../../../recordings/demo.perf.data", import.meta.url));

export interface ChosenSource {
  readonly source: Source;
  /** Why live samples are not served; null when they are, or were not asked for. */
  readonly fallbackReason: string | null;
}

/** Throws PmuError when the source cannot be opened. */
export function chooseSource(spec: SourceSpec, ringBytes: number): ChosenSource {
  switch (spec.kind) {
    case "perf":
      return { source: openPerfSource({ ringBytes }), fallbackReason: null };
    case "synthetic":
      return {
        source: openSyntheticSource({
          ratePerSecond: spec.ratePerSecond,
          cpus: spec.cpus ?? undefined,
          seed: spec.seed,
          ringBytes,
        }),
        fallbackReason: null,
      };
    case "replay":
      return {
        source: openReplaySource({ file: spec.file, speed: spec.speed, loop: spec.loop, ringBytes }),
        fallbackReason: null,
      };
    case "auto":
      try {
        return { source: openPerfSource({ ringBytes }), fallbackReason: null };
      } catch (error) {
        if (!(error instanceof PmuError)) throw error;
        return { source: openReplaySource({ file: DEMO_RECORDING, ringBytes }), fallbackReason: error.message };
      }
  }
}
