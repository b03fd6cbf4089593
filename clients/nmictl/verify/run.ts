/** A run against a live daemon: one handler that gets everything from beginning to end, and others that come and go. */
import { setMaxListeners } from "node:events";
import { setTimeout as delay } from "node:timers/promises";
import {
  type BrokerClient,
  connect,
  type GetStatusResponse,
  type RegisterRequest,
  RpcError,
  type TlsOptions,
} from "../../typescript/index.js";
import { patiently } from "../patience.js";
import { Random } from "./random.js";
import { Removals } from "./removals.js";
import { ROLES, type Role, type World } from "./roles.js";
import { CALL_MS_MAX, Subject } from "./subject.js";

export interface RunOptions {
  readonly address: string;
  readonly tls?: TlsOptions;
  readonly seconds: number;
  /** At a time, beside the one that gets everything. */
  readonly handlers: number;
  readonly seed: number;
  /** In perf's syntax; an empty one is the daemon's default. */
  readonly events: readonly string[];
  /** Of the fastest handler; 0 is every sample, or what the daemon gives to those who do not ask. */
  readonly frequencyHz: number;
  /** Aborts when the user wants to stop: what has run until then is reconciled. */
  readonly signal: AbortSignal;
}

/** What came of a run, before anything is compared. */
export interface Run {
  readonly options: Pick<RunOptions, "handlers" | "seed">;
  readonly seconds: number;
  readonly before: GetStatusResponse;
  readonly after: GetStatusResponse;
  /** From the first registration to the last removal; it had every event all along. */
  readonly witness: Subject;
  /** Nobody else was registered any more when the witness left. */
  readonly witnessWasLast: boolean;
  /** The witness among them. */
  readonly subjects: readonly Subject[];
  /** By event, the most that status showed. */
  readonly throttled: ReadonlyMap<string, number>;
  /** Requests that the daemon would not have, with its reason: a recording lacks callchains, the table is full. */
  readonly refused: ReadonlyMap<string, number>;
  /** Daemons beside the first one. */
  readonly restarts: number;
  /** No more handlers and events were left at the end than there were before. */
  readonly quiet: boolean;
}

export const WITNESS = "everything, all along";

const NAME_PREFIX = `verify-${process.pid}-`;
const PIDS_MAX = 16;
const STATUS_MS = 500;
/** The daemon closes an event right after its last handler. */
const QUIET_MS_MAX = 10_000;
const QUIET_POLL_MS = 20;
const REFUSED_PAUSE_MS = 200;

export async function run(options: RunOptions): Promise<Run> {
  using client = connect(options.address, { timeoutMs: CALL_MS_MAX, tls: options.tls });
  const before = await client.getStatus();
  using removals = await Removals.watch(client, NAME_PREFIX);
  return await new Runner(client, removals, options, before).run();
}

class Runner {
  readonly #client: BrokerClient;
  readonly #removals: Removals;
  readonly #options: RunOptions;
  readonly #before: GetStatusResponse;
  readonly #over = new AbortController();
  readonly #subjects: Subject[] = [];
  readonly #refused = new Map<string, number>();
  readonly #throttled = new Map<string, number>();
  readonly #pids = new Set<number>();
  readonly #daemons = new Set<number>();
  #names = 0;

  constructor(client: BrokerClient, removals: Removals, options: RunOptions, before: GetStatusResponse) {
    this.#client = client;
    this.#removals = removals;
    this.#options = options;
    this.#before = before;
    this.#daemons.add(before.pid);
    // Every handler waits on it.
    setMaxListeners(0, this.#over.signal);
  }

  async run(): Promise<Run> {
    const { events, frequencyHz, handlers, seed } = this.#options;
    const startedMs = performance.now();
    const registered = await this.#register(WITNESS, { events: events.map((event) => ({ event, frequencyHz })) });
    const witness = registered.subject;
    await witness.subscribe();

    const order = new Random(seed).shuffled(ROLES);
    await this.#during(witness, async () => {
      const slots = Array.from({ length: handlers }, (_, slot) =>
        this.#fillSlot(slot, order, this.#world(slot, registered.frequencyHz)),
      );
      await Promise.all(slots);
    });

    this.#noteThrottled(await this.#status());
    // A recording ends when it will, with whoever is there.
    const witnessWasLast = !witness.ended;
    await witness.deregister();
    await witness.settle();
    const { after, quiet } = await this.#untilQuiet();
    return {
      options: { handlers, seed },
      seconds: (performance.now() - startedMs) / 1000,
      before: this.#before,
      after,
      witness,
      witnessWasLast,
      subjects: this.#subjects,
      throttled: this.#throttled,
      refused: this.#refused,
      quiet,
      restarts: this.#daemons.size - 1,
    };
  }

  /** Of a daemon that may be being restarted. */
  async #status(): Promise<GetStatusResponse> {
    const status = await patiently(() => this.#client.getStatus());
    this.#daemons.add(status.pid);
    return status;
  }

  /** Lets `work` go on for the time of the run, or until the source has ended; it must end soon after. */
  async #during(witness: Subject, work: () => Promise<void>): Promise<void> {
    const { seconds, signal } = this.#options;
    const over = (): void => this.#over.abort();
    const timer = setTimeout(over, seconds * 1000);
    signal.addEventListener("abort", over, { once: true });
    if (signal.aborted) over();
    try {
      const working = work();
      // Whichever fails ends the run, and so the other one.
      await Promise.all([working.catch(over), this.#watchStatus(witness).finally(over)]);
      await working;
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", over);
    }
  }

  /** What one slot's handlers do depends on the seed and on nothing else, whatever the others are at. */
  #world(slot: number, frequencyHz: number): World {
    return {
      random: new Random(this.#options.seed + slot + 1),
      events: this.#options.events,
      frequencyHz,
      dispatchers: this.#before.dispatchers.length,
      cpus: this.#before.dispatchers.flatMap(({ cpus }) => cpus),
      pids: () => [...this.#pids],
      pass: (ms) => this.#pass(ms),
    };
  }

  async #pass(ms: number): Promise<void> {
    await delay(ms, undefined, { signal: this.#over.signal }).catch(() => {});
  }

  async #register(role: string, request: Omit<RegisterRequest, "name">) {
    const name = `${NAME_PREFIX}${this.#names++} ${role}`;
    const registered = await Subject.register({
      address: this.#options.address,
      tls: this.#options.tls,
      removals: this.#removals,
      role,
      request: { ...request, name },
      onBatch: role === WITNESS ? ({ pid }) => this.#notePid(pid[0]) : undefined,
    });
    this.#subjects.push(registered.subject);
    return registered;
  }

  #notePid(pid: number): void {
    if (this.#pids.size < PIDS_MAX && pid > 0) this.#pids.add(pid);
  }

  /** One handler after the other, until the run is over. With as many slots as roles, all are there from the start. */
  async #fillSlot(slot: number, order: readonly Role[], world: World): Promise<void> {
    for (let turn = slot; !this.#over.signal.aborted; turn++) {
      const role = order[turn % order.length];
      let subject: Subject;
      try {
        ({ subject } = await this.#register(role.name, role.request(world)));
      } catch (error) {
        if (!(error instanceof RpcError)) throw error;
        const reason = `${role.name}: ${error.message}`;
        this.#refused.set(reason, (this.#refused.get(reason) ?? 0) + 1);
        await this.#pass(REFUSED_PAUSE_MS);
        continue;
      }
      try {
        await role.live(subject, world);
      } catch (error) {
        subject.ledger.problems.push(`failed on the way: ${(error as Error).message}`);
        await subject.deregister(true).catch(() => {});
      }
      await subject.settle();
    }
  }

  /** Until the run is over, or the source has ended. */
  async #watchStatus(witness: Subject): Promise<void> {
    while (!this.#over.signal.aborted && !witness.ended) {
      this.#noteThrottled(await this.#status());
      await this.#pass(STATUS_MS);
    }
  }

  #noteThrottled({ events }: GetStatusResponse): void {
    for (const { name, throttled } of events) {
      if (throttled > 0) this.#throttled.set(name, Math.max(throttled, this.#throttled.get(name) ?? 0));
    }
  }

  async #untilQuiet(): Promise<{ after: GetStatusResponse; quiet: boolean }> {
    const giveUpAt = performance.now() + QUIET_MS_MAX;
    for (;;) {
      const after = await this.#status();
      // Others that were there before may well stay.
      const quiet = after.handlers <= this.#before.handlers && after.events.length <= this.#before.events.length;
      if (quiet || performance.now() > giveUpAt) return { after, quiet };
      await delay(QUIET_POLL_MS);
    }
  }
}
