/** How long one end-to-end test may take, far beyond what it does: a hang fails instead of holding up the run. */
export const BOUNDED = { timeout: 120_000 } as const;
