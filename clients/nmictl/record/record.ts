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
import { CLOCK_IDS } from "./abi.js";
import { MappedFiles } from "./build-id.js";
import { clockFeature, commandLineFeature, hostFeatures, versionFeature } from "./features.js";
import { Followed, LATE_MS } from "./followed.js";
import { hostFacts, isRunning, traceHeads } from "./host.js";
import {
  checkOptions,
  FLUSH_INTERVAL_MS,
  fieldsOf,
  namesTracepoint,
  type RecordOptions,
  registerRequest,
} from "./options.js";
import { Recording } from "./recording.js";
import { openFile, PipeSink } from "./sink.js";
import { tracingDataFeature } from "./tracing-data.js";
import { EXIT_NOT_FOUND, exitStatusOf, Workload } from "./workload.js";
import { PerfDataWriter } from "./writer.js";

export interface RecordContext {
  /** Takes one line about the run. */
  readonly note: (line: string) => void;
  /** As given, for the recording's head. */
  readonly commandLine: readonly string[];
  /** Aborts when the user wants to stop; the reason is the signal's name. */
  readonly signal: AbortSignal;
}

const TICK_MS = 500;
/** Rings and queues hold nothing older. */
const ROUND_MS = 1000 + 2 * FLUSH_INTERVAL_MS;
const TRACEPOINT_TYPE = 2;
/** PERF_TYPE_SOFTWARE and PERF_COUNT_SW_DUMMY. */
const TYPE_SOFTWARE = 1;
const COUNT_SW_DUMMY = 9n;
const SNAPSHOT_TIMEOUT_MS = 30_000;

/**
 * Resolves with the exit status, perf record's: the command's where there is one, and where a signal ended the recording
 * or the command, 128 and the signal's number. Throws NmiError and RpcError.
 */
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
  // "replay: FILE, ...", as the daemon describes it.
  const replay = /^replay\b/.test(source);
  if (replay && (command.length > 0 || options.pid)) {
    throw new NmiError("INVALID_OPTIONS", "the daemon plays a recording: record all of it with -a");
  }
  const whole = replay && options.event === undefined ? { ...options, event: await recordedEvents(client) } : options;
  let workload: Workload | undefined;
  try {
    workload = command.length > 0 ? new Workload(command) : undefined;
  } catch (error) {
    if (!(error instanceof NmiError)) throw error;
    context.note(error.message);
    return EXIT_NOT_FOUND;
  }
  try {
    const registered = await register(client, whole, replay);
    return await new Recorder(client, whole, context, registered, workload).run();
  } catch (error) {
    workload?.kill();
    throw error;
  }
}

/** All events of the recording that is played, but those that count nothing. */
async function recordedEvents(client: BrokerClient): Promise<readonly string[]> {
  const { events } = await client.listEvents();
  const counting = events.filter(({ type, config }) => type !== TYPE_SOFTWARE || config !== COUNT_SW_DUMMY);
  // A name that several share means all of them.
  return [...new Set(counting.map(({ name }) => name))];
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
    rated || !namesTracepoint(event ?? "", first.events) ? { event, frequencyHz, period } : { event, period: 1 },
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
  #recording: Recording | undefined;
  #source = "";
  #snapshotComplete = false;
  #samples = 0;
  #lost = 0;
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
      throw this.#interrupted(error);
    } finally {
      clearTimeout(timeout);
      signal.removeEventListener("abort", stop);
    }
    stop();
    await removal;
    await this.#close();
    return await this.#exitStatus();
  }

  /** A command that is still there when the recording has ended is told to end, and waited for. */
  async #exitStatus(): Promise<number> {
    const { signal } = this.#context;
    this.#workload?.kill();
    const status = (await this.#workload?.exited) ?? 0;
    if (this.#failed) return 1;
    return signal.aborted ? exitStatusOf(signal.reason) : status;
  }

  /** Why the stream broke, and what is left. */
  #interrupted(error: unknown): unknown {
    if (this.#recording === undefined || !(error instanceof NmiError) || error.code !== "UNAVAILABLE") return error;
    const { output } = this.#options;
    const where = output === "-" ? "what was written" : output;
    return new NmiError(
      "INTERRUPTED",
      `the daemon went away while it was recording: ${where} ends with what it had sent by then`,
    );
  }

  /** The kernel's rings may hold records of before the stop, which a removal would not wait for. */
  async #removeWhenStopped(handlerId: number): Promise<void> {
    const { signal } = this.#stopping;
    if (!signal.aborted) await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
    this.#workload?.kill();
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
        return this.#recording === undefined ? this.#begin(delivery) : undefined;
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
    const writer = new PerfDataWriter({
      events: started.events,
      // A recording's CPUs are its own machine's.
      cpus: Array.from({ length: replay ? 1 : host.cpusPresent }, (_, cpu) => cpu),
      fields,
      clock: started.clock,
      contextSwitches: this.#options.switchEvents ?? false,
      mmapData: false,
      kernelCallchainsOnly: fields.includes("STACK_USER") && !replay,
    });
    const formats = started.events
      .filter(({ format }) => format.length > 0)
      .map(({ name, format }) => ({ system: name.split(":")[0], format }));
    const tracing = tracingDataFeature(formats, traceHeads());
    const features = [
      ...(replay ? [] : hostFeatures(host)),
      versionFeature("nmictl"),
      commandLineFeature(this.#context.commandLine),
      ...(CLOCK_IDS.has(started.clock) ? [clockFeature()] : []),
      ...(tracing ? [tracing] : []),
    ];
    const sink = output === "-" ? new PipeSink(process.stdout) : await openFile(output);
    sink.gone.addEventListener("abort", () => this.#stopping.abort(), { once: true });
    // A replay may be faster than its recording, whose order readers restore.
    const roundMs = replay ? undefined : ROUND_MS + (this.#followed === undefined ? 0 : LATE_MS);
    this.#recording = new Recording(writer, sink, features, roundMs, {
      beforeTick: () => {
        this.#samples += this.#followed?.settle(writer, performance.now()) ?? 0;
      },
      onFailure: (error) => this.#abandon.abort(error),
    });
    await this.#recording.flush();
  }

  get #open(): Recording {
    if (this.#recording === undefined) throw new NmiError("PROTOCOL", "the daemon sent records before `started`");
    return this.#recording;
  }

  async #tasks(tasks: Tasks): Promise<void> {
    const recording = this.#open;
    const { writer } = recording;
    for (const task of tasks.records) {
      writer.task(task);
      if (task.record === "mmap") this.#mapped.add(task.mmap);
    }
    this.#samples += this.#followed?.tasks(tasks, writer) ?? 0;
    if (tasks.snapshotComplete && !this.#snapshotComplete) {
      this.#snapshotComplete = true;
      this.#letGo();
    }
    await recording.flushLarge();
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
    void this.#workload.exited.then(stop);
  }

  async #takeSamples(batch: SampleBatch): Promise<void> {
    if (!this.#snapshotComplete) throw tooOld();
    const recording = this.#open;
    const { writer } = recording;
    if (this.#followed === undefined) {
      writer.samples(batch);
      this.#samples += batch.length;
    } else {
      const nowMs = performance.now();
      this.#samples += this.#followed.samples(batch, writer, nowMs);
      this.#samples += this.#followed.settle(writer, nowMs);
    }
    await recording.flushLarge();
  }

  async #loss(loss: Loss): Promise<void> {
    this.#lost += loss.count;
    if (isRestartGap(loss)) this.#noteGap(loss);
    const recording = this.#open;
    recording.writer.loss(loss);
    await recording.flushLarge();
  }

  /** Each event is told of it. */
  #noteGap({ firstTime, lastTime }: Loss): void {
    if (firstTime === this.#gapFrom) return;
    this.#gapFrom = firstTime;
    this.#context.note(`the daemon was restarted: nothing was recorded for ${formatNs(Number(lastTime - firstTime))}`);
  }

  async #close(): Promise<void> {
    const recording = this.#recording;
    if (recording === undefined) return;
    const { writer } = recording;
    this.#samples += this.#followed?.settle(writer, performance.now(), true) ?? 0;
    const wanted = this.#options.buildid && this.#source !== "replay";
    await recording.close(wanted ? this.#mapped.buildIds() : []);
    const { note } = this.#context;
    if (this.#lost > 0) note(`lost ${this.#lost} samples`);
    if (writer.tooLarge > 0) note(`left out ${writer.tooLarge} samples that no record can hold`);
    const size = (recording.length / 1024 / 1024).toFixed(3);
    process.stderr.write(
      `[ nmictl record: Captured and wrote ${size} MB ${this.#options.output} (${this.#samples} samples) ]\n`,
    );
  }
}

function tooOld(): NmiError {
  return new NmiError("UNSUPPORTED", "the daemon sends no task records, or not in time: run one of this version");
}
