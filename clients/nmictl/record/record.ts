/** `nmictl record`: what perf record does, with the daemon's samples: a recording that perf report and script read. */
import { setTimeout as delay } from "node:timers/promises";
import {
  type BrokerClient,
  type Delivery,
  type Loss,
  NmiError,
  type RegisterResponse,
  RpcError,
  type SampleBatch,
  type Started,
  type Tasks,
} from "../../typescript/index.js";
import { formatNs } from "../output.js";
import { patiently } from "../patience.js";
import { isRestartGap } from "../restart-gap.js";
import { CLOCK_IDS, type Feature } from "./abi.js";
import { MappedFiles } from "./build-id.js";
import { clockFeature, commandLineFeature, hostFeatures, versionFeature } from "./features.js";
import { Followed } from "./followed.js";
import { hostFacts, isRunning, traceHeads } from "./host.js";
import { checkOptions, FLUSH_INTERVAL_MS, fieldsOf, type RecordOptions, registerRequest } from "./options.js";
import { openFile, PipeSink, type Sink } from "./sink.js";
import { tracingDataFeature } from "./tracing-data.js";
import { EXIT_NOT_FOUND, Workload } from "./workload.js";
import { PerfDataWriter } from "./writer.js";

export interface RecordContext {
  /** Takes one line about the run. */
  readonly note: (line: string) => void;
  /** As given, for the recording's head. */
  readonly commandLine: readonly string[];
  /** Aborts when the user wants to stop. */
  readonly signal: AbortSignal;
}

const WRITE_BYTES = 1024 * 1024;
const TICK_MS = 500;
/** Rounds end after both clocks have gone on this far: rings and queues hold nothing older. */
const ROUND_MS = 1000 + 2 * FLUSH_INTERVAL_MS;
const TRACEPOINT_TYPE = 2;
const SNAPSHOT_TIMEOUT_MS = 30_000;

/** Resolves with the exit status: the command's where there is one. Throws NmiError and RpcError. */
export async function record(
  client: BrokerClient,
  options: RecordOptions,
  command: readonly string[],
  context: RecordContext,
): Promise<number> {
  checkOptions(options, command);
  if (options.output === "-" && process.stdout.isTTY) {
    throw new NmiError("INVALID_OPTIONS", "standard output is a terminal: pipe it to perf, or name a file with -o");
  }
  const { source } = await client.getStatus();
  if (source === "replay" && (command.length > 0 || options.pid)) {
    throw new NmiError("INVALID_OPTIONS", "the daemon plays a recording: record all of it with -a");
  }
  let workload: Workload | undefined;
  try {
    workload = command.length > 0 ? new Workload(command) : undefined;
  } catch (error) {
    if (!(error instanceof NmiError)) throw error;
    context.note(error.message);
    return EXIT_NOT_FOUND;
  }
  try {
    const registered = await register(client, options, source === "replay");
    return await new Recorder(client, options, context, registered, workload).run();
  } catch (error) {
    workload?.kill();
    throw error;
  }
}

/** Tracepoints are all recorded, with their data, unless asked otherwise: as perf does. */
async function register(client: BrokerClient, options: RecordOptions, replay: boolean) {
  const request = registerRequest(options, replay);
  const first = await client.register(request);
  const rated = options.frequency !== undefined || options.period !== undefined;
  const raw = request.fields?.includes("RAW");
  if (replay || !first.events.some(({ type }) => type === TRACEPOINT_TYPE) || (rated && raw)) {
    return { registered: first, fields: request.fields ?? [] };
  }
  await client.deregister(first.handlerId, { discard: true });
  const fields = [...new Set([...fieldsOf(options), "RAW" as const])];
  const all = request.events.map(({ event, frequencyHz, period }) =>
    rated ? { event, frequencyHz, period } : { event, period: 1 },
  );
  return { registered: await client.register({ ...request, events: all, fields }), fields };
}

interface Registration {
  readonly registered: RegisterResponse;
  readonly fields: ReturnType<typeof fieldsOf>;
}

class Recorder {
  readonly #client: BrokerClient;
  readonly #options: RecordOptions;
  readonly #context: RecordContext;
  readonly #registration: Registration;
  readonly #workload: Workload | undefined;
  readonly #followed: Followed | undefined;
  readonly #mapped = new MappedFiles();
  readonly #abandon = new AbortController();
  readonly #stopping = new AbortController();
  #sink: Sink | undefined;
  #writer: PerfDataWriter | undefined;
  #features: readonly Feature[] = [];
  #source = "";
  #snapshotComplete = false;
  #samples = 0;
  #lost = 0;
  #exitStatus = 0;
  #roundWallMs = performance.now();
  #roundTime = 0n;
  #failed = false;
  #gapFrom = -1n;

  constructor(
    client: BrokerClient,
    options: RecordOptions,
    context: RecordContext,
    registration: Registration,
    workload: Workload | undefined,
  ) {
    this.#client = client;
    this.#options = options;
    this.#context = context;
    this.#registration = registration;
    this.#workload = workload;
    const targets = workload === undefined ? options.pid : options.allCpus ? undefined : [workload.pid];
    this.#followed = targets && new Followed(targets);
  }

  async run(): Promise<number> {
    const { signal } = this.#context;
    const { handlerId } = this.#registration.registered;
    const stop = () => this.#stopping.abort();
    signal.addEventListener("abort", stop, { once: true });
    if (signal.aborted) stop();
    const removal = this.#removeWhenStopped(handlerId);
    const timeout = setTimeout(() => {
      if (!this.#snapshotComplete) this.#abandon.abort(tooOld());
    }, SNAPSHOT_TIMEOUT_MS);
    try {
      for await (const delivery of this.#client.subscribe(handlerId, { signal: this.#abandon.signal })) {
        await this.#take(delivery);
      }
    } catch (error) {
      this.#workload?.kill();
      this.#failed = true;
      stop();
      await removal;
      await this.#close().catch(() => {});
      throw error;
    } finally {
      clearTimeout(timeout);
      signal.removeEventListener("abort", stop);
    }
    stop();
    await removal;
    await this.#close();
    return this.#failed ? 1 : this.#exitStatus;
  }

  /** The kernel's rings may hold records of before the stop, which a removal would not wait for. */
  async #removeWhenStopped(handlerId: number): Promise<void> {
    const { signal } = this.#stopping;
    if (!signal.aborted) await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
    if (this.#context.signal.aborted) this.#workload?.kill();
    if (!this.#failed && this.#source !== "replay") await delay(2 * FLUSH_INTERVAL_MS);
    const deregister = () => this.#client.deregister(handlerId, { discard: this.#failed });
    await patiently(deregister, this.#failed ? 0 : undefined).catch((error: unknown) => {
      if (!(error instanceof RpcError && error.code === "NOT_FOUND")) this.#abandon.abort(error);
    });
  }

  async #take(delivery: Delivery): Promise<void> {
    switch (delivery.kind) {
      case "started":
        // Of a stream that was resumed: the recording goes on.
        return this.#writer === undefined ? this.#begin(delivery) : undefined;
      case "tasks":
        return this.#tasks(delivery);
      case "samples":
        return this.#takeSamples(delivery);
      case "loss":
        return this.#loss(delivery);
      case "aux":
        return;
      case "end":
        if (["OVERFLOWED", "DAEMON_STOPPING", "NOT_REARMED"].includes(delivery.reason)) {
          this.#context.note(
            `the recording ends early: ${[delivery.reason, delivery.message].filter(Boolean).join(": ")}`,
          );
          this.#failed = true;
        }
        return;
    }
  }

  async #begin(started: Started): Promise<void> {
    const { output } = this.#options;
    const replay = started.source === "replay";
    const host = hostFacts();
    const { fields } = this.#registration;
    this.#source = started.source;
    this.#writer = new PerfDataWriter({
      events: started.events,
      // A recording's CPUs are its own machine's.
      cpus: Array.from({ length: replay ? 1 : host.cpusPresent }, (_, cpu) => cpu),
      fields,
      clock: started.clock,
      contextSwitches: this.#options.switchEvents ?? false,
      mmapData: false,
      kernelCallchainsOnly: fields.includes("STACK_USER"),
    });
    const formats = started.events
      .filter(({ format }) => format.length > 0)
      .map(({ name, format }) => ({ system: name.split(":")[0], format }));
    const tracing = tracingDataFeature(formats, traceHeads());
    this.#features = [
      ...(replay ? [] : hostFeatures(host)),
      versionFeature("nmictl"),
      commandLineFeature(this.#context.commandLine),
      ...(CLOCK_IDS.has(started.clock) ? [clockFeature()] : []),
      ...(tracing ? [tracing] : []),
    ];
    this.#sink = output === "-" ? new PipeSink(process.stdout) : await openFile(output);
    this.#sink.gone.addEventListener("abort", () => this.#stopping.abort(), { once: true });
    this.#writer.begin(this.#features);
    await this.#flush();
  }

  get #open(): PerfDataWriter {
    if (this.#writer === undefined) throw new NmiError("PROTOCOL", "the daemon sent records before `started`");
    return this.#writer;
  }

  async #tasks(tasks: Tasks): Promise<void> {
    const writer = this.#open;
    for (const task of tasks.records) {
      writer.task(task);
      if (task.record === "mmap") this.#mapped.add(task.mmap);
    }
    this.#samples += this.#followed?.tasks(tasks, writer) ?? 0;
    if (tasks.snapshotComplete && !this.#snapshotComplete) {
      this.#snapshotComplete = true;
      this.#letGo();
    }
    await this.#flush(WRITE_BYTES);
  }

  /** All is in place: the command runs, and the time that was asked for begins. */
  #letGo(): void {
    const { duration, pid } = this.#options;
    const stop = () => this.#stopping.abort();
    if (duration !== undefined) setTimeout(stop, duration * 1000).unref();
    const tick = setInterval(() => {
      if (pid !== undefined && !pid.some(isRunning)) stop();
    }, TICK_MS);
    this.#stopping.signal.addEventListener("abort", () => clearInterval(tick), { once: true });
    if (this.#workload === undefined) return;
    this.#workload.letGo();
    void this.#workload.exited.then((status) => {
      this.#exitStatus = status;
      stop();
    });
  }

  async #takeSamples(batch: SampleBatch): Promise<void> {
    if (!this.#snapshotComplete) throw tooOld();
    const writer = this.#open;
    const nowMs = performance.now();
    if (this.#followed === undefined) {
      writer.samples(batch);
      this.#samples += batch.length;
    } else {
      this.#samples += this.#followed.samples(batch, writer, nowMs);
      this.#samples += this.#followed.settle(writer, nowMs);
    }
    await this.#flush(WRITE_BYTES);
  }

  async #loss(loss: Loss): Promise<void> {
    this.#lost += loss.count;
    if (isRestartGap(loss)) this.#noteGap(loss);
    this.#open.loss(loss);
    await this.#flush(WRITE_BYTES);
  }

  /** Each event is told of it. */
  #noteGap({ firstTime, lastTime }: Loss): void {
    if (firstTime === this.#gapFrom) return;
    this.#gapFrom = firstTime;
    this.#context.note(`the daemon was restarted: nothing was recorded for ${formatNs(Number(lastTime - firstTime))}`);
  }

  /** Writes what has been encoded, where it is as much as `least` bytes or a second has passed. */
  async #flush(least = 0): Promise<void> {
    const writer = this.#open;
    const nowMs = performance.now();
    const round = nowMs - this.#roundWallMs > ROUND_MS;
    if (writer.out.length < least && !round) return;
    // Samples that are held are older than those that were written: a round must not end before them.
    const passed = writer.lastTime - this.#roundTime > BigInt(ROUND_MS) * 1_000_000n;
    if (round && passed && this.#followed === undefined && this.#source !== "replay") {
      writer.finishedRound();
      this.#roundTime = writer.lastTime;
    }
    if (round) this.#roundWallMs = nowMs;
    if (writer.out.length > 0) await this.#sink?.write(writer.out.written);
    writer.out.clear();
  }

  async #close(): Promise<void> {
    const [writer, sink] = [this.#writer, this.#sink];
    if (writer === undefined || sink === undefined) return;
    this.#samples += this.#followed?.settle(writer, performance.now(), true) ?? 0;
    const wanted = this.#options.buildid && this.#source !== "replay";
    const buildIds = wanted ? this.#mapped.buildIds() : [];
    if (!sink.isFile) writer.buildIds(buildIds);
    await this.#flush();
    if (sink.isFile) await sink.finish(writer.finish(sink.length, this.#features, buildIds));
    await sink.close();
    const { note } = this.#context;
    if (this.#lost > 0) note(`lost ${this.#lost} samples`);
    if (writer.tooLarge > 0) note(`left out ${writer.tooLarge} samples that no record can hold`);
    const size = (sink.length / 1024 / 1024).toFixed(3);
    process.stderr.write(
      `[ nmictl record: Captured and wrote ${size} MB ${this.#options.output} (${this.#samples} samples) ]\n`,
    );
  }
}

function tooOld(): NmiError {
  return new NmiError("UNSUPPORTED", "the daemon sends no task records, or not in time: run one of this version");
}
