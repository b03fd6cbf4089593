/** GetStatus: what the daemon sees of the machine under it. */

/** The CPUs whose rings are drained, as of the daemon's last look: once a second while events are armed. */
export interface CpusStatus {
  readonly watched: readonly number[];
  /** The latest 64, oldest first. */
  readonly changes: readonly CpuChange[];
  /** How many there have been since the daemon's start. */
  readonly changesTotal: number;
}

export interface CpuChange {
  readonly cpu: number;
  /** BACK: it was offline for a moment between two looks. */
  readonly kind: "KIND_UNSPECIFIED" | "GONE" | "COME" | "BACK";
  /** Unix time in seconds, when it was noticed. COME and BACK: sampled from then on. */
  readonly at: number;
  /** Unix time in seconds of the last look that found it sampled; 0 for a CPU that is new. */
  readonly watchedUntil: number;
}

export interface KernelSettings {
  readonly perfEventParanoid: number;
  /** False where the file is hidden. */
  readonly paranoidKnown: boolean;
  /** Hz. */
  readonly perfEventMaxSampleRate: number;
}
