/** Clients of the daemon that are other users of this machine. Needs root. */
import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import type { TestContext } from "node:test";
import { fileURLToPath } from "node:url";

export type Request =
  | { readonly kind: "call"; readonly method: string; readonly message: object }
  /** Subscribes until it has so many samples of a process, or, where that is 0, until the stream ends. */
  | { readonly kind: "collect"; readonly handlerId: string; readonly until: number; readonly pid: number };

export interface Collected {
  readonly samples: number;
  readonly pids: readonly number[];
  /** By pid. */
  readonly samplesOf: Readonly<Record<number, number>>;
  /** Decimal. */
  readonly ips: readonly string[];
  readonly frames: readonly string[];
  /** Of COMM and MMAP records, and which records there were. */
  readonly taskPids: readonly number[];
  readonly records: readonly string[];
  readonly ended: boolean;
}

export type Answer =
  | { readonly ok: object }
  | { readonly collected: Collected }
  | { readonly refused: { readonly code: string; readonly details: string } };

const CLIENT_MAIN = fileURLToPath(new URL("./as-user-client.js", import.meta.url));

/** setpriv(1): what turns a command into one of this user's, of a group of the same number. */
export function asUser(uid: number, groups: readonly number[] = []): string[] {
  const supplementary = groups.length === 0 ? ["--clear-groups"] : ["--groups", groups.join(",")];
  return ["setpriv", "--reuid", `${uid}`, "--regid", `${uid}`, ...supplementary];
}

export class UserClient {
  readonly pid: number;
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, { resolve: (answer: Answer) => void; reject: (error: Error) => void }>();
  #number = 0;

  constructor(t: TestContext, address: string, uid: number, groups: readonly number[] = []) {
    const [command, ...args] = [...asUser(uid, groups), process.execPath, CLIENT_MAIN, address];
    this.#child = spawn(command, args, { stdio: ["pipe", "pipe", "inherit"] });
    this.pid = this.#child.pid as number;
    t.after(() => this.#child.kill("SIGKILL"));
    this.#child.on("close", () => {
      for (const { reject } of this.#waiting.values()) reject(new Error(`the client of uid ${uid} has ended`));
    });
    if (this.#child.stdout === null) throw new Error("no pipe");
    createInterface({ input: this.#child.stdout }).on("line", (line) => {
      const { number, answer } = JSON.parse(line) as { number: number; answer: Answer };
      this.#waiting.get(number)?.resolve(answer);
      this.#waiting.delete(number);
    });
  }

  #ask(request: Request): Promise<Answer> {
    const number = this.#number++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(number, { resolve, reject });
      this.#child.stdin?.write(`${JSON.stringify({ number, request })}\n`);
    });
  }

  /** What the daemon answered; throws where it refused. */
  async call<T>(method: string, message: object = {}): Promise<T> {
    const answer = await this.#ask({ kind: "call", method, message });
    if (!("ok" in answer)) throw new Error(JSON.stringify(answer));
    return answer.ok as T;
  }

  /** "CODE: message"; throws where the daemon did not refuse. */
  async refusal(method: string, message: object = {}): Promise<string> {
    const request: Request =
      method === "Subscribe"
        ? { kind: "collect", handlerId: (message as { handler_id: string }).handler_id, until: 0, pid: 0 }
        : { kind: "call", method, message };
    const answer = await this.#ask(request);
    if (!("refused" in answer)) throw new Error(`${method} was not refused`);
    return `${answer.refused.code}: ${answer.refused.details}`;
  }

  async collect(handlerId: string, until: number, pid: number): Promise<Collected> {
    const answer = await this.#ask({ kind: "collect", handlerId, until, pid });
    if (!("collected" in answer)) throw new Error(JSON.stringify(answer));
    return answer.collected;
  }
}
