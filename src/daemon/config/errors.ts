/** One thing that is wrong with the configuration, in the operator's terms. */
export interface Problem {
  /** Where it came from: `flag --listen`, `NMID_LISTEN`, `/etc/nmid.yaml:3 key listen`. */
  readonly origin: string;
  readonly what: string;
  readonly remedy: string;
}

/** The configuration cannot be used. Carries every problem that was found, so that one run shows them all. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";
  readonly code = "CONFIG_INVALID";
  readonly problems: readonly Problem[];

  constructor(problems: readonly Problem[]) {
    const lines = problems.map(({ origin, what, remedy }) => `  ${origin}: ${what}; ${remedy}`);
    super(
      `invalid configuration, ${problems.length === 1 ? "1 problem" : `${problems.length} problems`}:\n${lines.join("\n")}`,
    );
    this.problems = problems;
  }
}
