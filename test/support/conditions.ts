/** Waiting for what a stream or a process has brought: conditions are looked at again with every change. */

/** Far beyond what anything here takes, so that only a hang ends in it. */
const TIMEOUT_MS = 30_000;

interface Waiting {
  readonly holds: () => boolean;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

export class Conditions {
  readonly #waiting = new Set<Waiting>();
  readonly #describe: () => string;
  #over: Error | null = null;

  /** `describe` is added to the message of a wait that fails. */
  constructor(describe: () => string) {
    this.#describe = describe;
  }

  /** Something has happened that conditions may depend on. */
  changed(): void {
    for (const waiting of this.#waiting) {
      if (waiting.holds()) waiting.resolve();
    }
  }

  /** Nothing more will happen: what does not hold by now never will. */
  over(why: Error): void {
    this.#over ??= why;
    this.changed();
    for (const waiting of this.#waiting) waiting.reject(why);
  }

  /** Resolves once `holds()`. Rejects when it has not within a bound, or never will. */
  async until(what: string, holds: () => boolean): Promise<void> {
    if (holds()) return;
    let timer: NodeJS.Timeout | undefined;
    let waiting: Waiting | undefined;
    try {
      await new Promise<void>((resolve, reject) => {
        if (this.#over !== null) {
          reject(this.#over);
          return;
        }
        waiting = { holds, resolve, reject };
        this.#waiting.add(waiting);
        timer = setTimeout(() => reject(new Error(`not within ${TIMEOUT_MS} ms`)), TIMEOUT_MS);
      });
    } catch (error) {
      throw new Error(`${what}: ${(error as Error).message} (${this.#describe()})`, { cause: error });
    } finally {
      clearTimeout(timer);
      if (waiting !== undefined) this.#waiting.delete(waiting);
    }
  }
}

/** For states that nothing announces: asks again until `ask` gives something else than undefined. */
export async function poll<T>(what: string, ask: () => Promise<T | undefined> | T | undefined): Promise<T> {
  const giveUpAt = performance.now() + TIMEOUT_MS;
  for (;;) {
    const answer = await ask();
    if (answer !== undefined) return answer;
    if (performance.now() > giveUpAt) throw new Error(`${what}: not within ${TIMEOUT_MS} ms`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
