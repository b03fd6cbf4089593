/** Composition: builds the daemon from its parts, in order, and takes it down in the opposite one. */
import { readFileSync } from "node:fs";
import { viewMemory } from "../pmu/ffi.js";
import type { RingDescriptor } from "../pmu/source.js";
import { liveCpuTree, readTopology, UNKNOWN_TOPOLOGY } from "../pmu/topology.js";
import { adoptSlots, highestGeneration } from "../registry/adopt.js";
import { SlotCounters } from "../registry/counters.js";
import { tableLayout } from "../registry/layout.js";
import { formatTable, HandlerTable, REMOVAL_LOOKS } from "../registry/table.js";
import { AtomicWords } from "../registry/words.js";
import { Authority } from "./auth/authority.js";
import { peerOf } from "./auth/peer.js";
import { revokeHandlers } from "./auth/revoke.js";
import { type ArmedEvent, ArmedEvents } from "./broker/armed-events.js";
import { BooksAudit } from "./broker/audit.js";
import { Broker } from "./broker/broker.js";
import { CpuWatch } from "./broker/cpu-watch.js";
import { KernelLossWatch } from "./broker/kernel-loss.js";
import { MachineWatch } from "./broker/machine-watch.js";
import { OverloadControl } from "./broker/overload.js";
import { rateText } from "./broker/rates.js";
import { handleOf } from "./broker/registration.js";
import { SettingsWatch } from "./broker/settings-watch.js";
import { Tally } from "./broker/tally.js";
import { TaskTracking } from "./broker/task-tracking.js";
import { chooseSource } from "./choose-source.js";
import { monotonicClock } from "./clock.js";
import type { DaemonConfig } from "./config/config.js";
import { memoryShortfall } from "./config/limits.js";
import { LiveConfig, type ReloadReport } from "./config/live.js";
import { FlushPacer, FlushTimes } from "./delivery/flush.js";
import { MemoryBudget, planMemory, StreamMemory } from "./delivery/memory.js";
import { assignRings } from "./dispatch/assign.js";
import type { DeliveryBell } from "./dispatch/delivery-bell.js";
import { DispatcherHost } from "./dispatch/host.js";
import { liveCpuState, planPinning } from "./dispatch/pinning.js";
import { SharedMemory } from "./dispatch/shared-memory.js";
import { DISPATCHER_STAT, EVENT_STAT } from "./dispatch/stats.js";
import { CallStreams } from "./grpc/call-stream.js";
import { FramePool } from "./grpc/frame-pool.js";
import { listeningSocket, type PassedSocket, passedFds } from "./grpc/listen-fds.js";
import { NO_CONNECTIONS, startGrpcServer } from "./grpc/server.js";
import { brokerImplementation } from "./grpc/service.js";
import { type CollectParts, collect, eventCounters, handlerSnapshot } from "./observe/collect.js";
import { type DaemonPhase, Health } from "./observe/health.js";
import { HISTOGRAM_WORDS, LatencyHistogram } from "./observe/histogram.js";
import { startMetricsServer } from "./observe/http.js";
import { LivenessWatch } from "./observe/liveness.js";
import type { Logger } from "./observe/log.js";
import { createMetrics } from "./observe/metrics.js";
import { SlowDispatchWatch } from "./observe/slow-dispatch.js";
import type { ConnectionsSnapshot } from "./observe/snapshot.js";
import { RuntimeDir } from "./runtime-dir.js";
import { BooksFile, booksFileBytes } from "./state/books-file.js";
import { HandlerRecords, NO_RECORDS } from "./state/records.js";
import { type Recovery, recover } from "./state/recover.js";
import { STATE_VERSION } from "./state/saved-handler.js";
import { type Report, StateFiles } from "./state/state-files.js";

/** Streams get this long to take what is left and their end, when the daemon stops. */
const STOP_STREAMS_MS = 3000;
/** Nobody counts while handlers are left to the next daemon: who keeps up has taken what is left in a fraction of this. */
const SUSPEND_STREAMS_MS = 1000;
const STOP_SERVER_MS = 1000;
const BOOT_ID_FILE = "/proc/sys/kernel/random/boot_id";
const HOUSEKEEPING_MS = 1000;
const NS_PER_MS = 1e6;

export interface Daemon {
  /** Where tests inject faults. */
  readonly host: DispatcherHost;
  readonly liveness: LivenessWatch;
  /** As bound. */
  readonly listen: readonly string[];
  /** HOST:PORT as bound; empty when no metrics are served. */
  readonly metrics: string;
  /** What it serves, and to how many, in one line for the service manager. */
  status(): string;
  /** Puts in force what can be while it runs. Rejects when the configuration will not do, and changes nothing then. */
  reload(config: DaemonConfig): Promise<ReloadReport>;
  /** Ends every stream, closes everything, removes what it created. With `keep` handlers are left to the next daemon. Idempotent. */
  stop(options?: StopOptions): Promise<void>;
}

export interface StopOptions {
  readonly keep: boolean;
}

/** Undone in reverse, also when the start fails half-way. */
class Undo {
  readonly #steps: (() => void | Promise<void>)[] = [];

  push(step: () => void | Promise<void>): void {
    this.#steps.push(step);
  }

  async run(): Promise<void> {
    for (let step = this.#steps.pop(); step !== undefined; step = this.#steps.pop()) await step();
  }
}

/** Throws PmuError, RuntimeDirError, PinningError, ListenError or MetricsListenError: each says what to do. `onFatal` ends the daemon. */
export async function startDaemon(
  config: DaemonConfig,
  version: string,
  log: Logger,
  onFatal: (error: Error) => void,
): Promise<Daemon> {
  const undo = new Undo();
  // A daemon that does not get to its feet leaves everything as it found it.
  const stopping = { keep: true };
  try {
    const running = await start(config, version, log, onFatal, undo, stopping);
    return {
      ...running,
      stop: ({ keep } = { keep: false }) => {
        stopping.keep = keep;
        return undo.run();
      },
    };
  } catch (error) {
    await undo.run();
    throw error;
  }
}

async function start(
  config: DaemonConfig,
  version: string,
  log: Logger,
  onFatal: (error: Error) => void,
  undo: Undo,
  stopping: StopOptions,
): Promise<Omit<Daemon, "stop">> {
  const now = monotonicClock();
  const startedNs = now();
  const live = new LiveConfig(config);
  const runtimeDir = new RuntimeDir(config.runtimeDir);
  undo.push(() => runtimeDir.close());
  const { source, fallbackReason } = chooseSource(config.source, config.ringKib * 1024);
  undo.push(() => source.close());

  const { capacity, dispatchers } = config;
  const { bytes } = tableLayout(capacity, dispatchers);
  const bootId = readFileSync(BOOT_ID_FILE, "utf8").trim();
  const warn = (message: string, fields: Record<string, unknown>): void => log.warn(fields, message);
  const stateFiles = new StateFiles(runtimeDir.stateDir(), warn);
  // Before the files that it reads are replaced.
  const recovery = recoverFrom(runtimeDir, stateFiles, bootId, warn);
  const { generationFloor } = recovery;
  const recovered = config.restart === "keep" ? recovery.handlers : [];
  if (config.restart === "end") for (const { saved } of recovery.handlers) stateFiles.removeHandler(saved.slot);
  stateFiles.writeDaemon({ version: STATE_VERSION, bootId, generationFloor });
  const tableFile = runtimeDir.createTable(bytes);
  undo.push(() => tableFile.close());
  const memory = viewMemory(tableFile.address, bytes);
  const layout = formatTable(memory, { capacity, dispatchers, daemonPid: process.pid, startedAt: Date.now() / 1000 });
  const held = recovered.map(handleOf).filter(({ slot }) => slot < capacity);
  adoptSlots(memory, layout, held, generationFloor);
  undo.push(() => {
    const highest = Math.max(generationFloor, highestGeneration(memory, layout));
    try {
      stateFiles.writeDaemon({ version: STATE_VERSION, bootId, generationFloor: highest });
    } catch (error) {
      log.error({ err: error }, "the next daemon cannot be told which ids were given out");
    }
  });
  const booksBytes = booksFileBytes(capacity);
  const booksMapped = runtimeDir.createBooks(booksBytes);
  undo.push(() => booksMapped.close());
  const booksFile = BooksFile.format(viewMemory(booksMapped.address, booksBytes), capacity);
  const shared = new SharedMemory(capacity, dispatchers);
  const words = new AtomicWords(memory);
  const table = new HandlerTable(memory, layout, shared.removalBell(), words, REMOVAL_LOOKS, generationFloor);
  const counters = new SlotCounters(memory, layout);

  const shortfall = memoryShortfall(config, config.limits.memoryMaxBytes);
  if (shortfall !== null) log.warn(shortfall);
  const memoryPlan = planMemory(config.limits.memoryMaxBytes);
  const frames = new FramePool(memoryPlan);
  const budgets = {
    outboxes: new MemoryBudget(memoryPlan.outboxBytes),
    streams: new StreamMemory(memoryPlan.streamBytes, capacity, frames),
  };
  const ringCpus = source.rings.map(({ cpu }) => cpu);
  // Other sources number CPUs of their own.
  const isThisMachine = source.kind === "perf";
  const topology = isThisMachine ? readTopology(ringCpus, liveCpuTree) : UNKNOWN_TOPOLOGY;
  const shares = assignRings(ringCpus, topology, dispatchers);
  const near = shares.map((cpus) => (isThisMachine ? cpus : []));
  const ringOf = new Map(source.rings.map((ring) => [ring.cpu, ring]));
  const host: DispatcherHost = new DispatcherHost({
    tableAddress: tableFile.address,
    tableBytes: bytes,
    capacity,
    segmentBytes: memoryPlan.segmentBytes,
    rings: shares.map((cpus) => cpus.map((cpu) => ringOf.get(cpu) as RingDescriptor)),
    pinning: planPinning(config.dispatcherCpus, near, liveCpuState),
    clockIsMonotonic: source.clockIsMonotonic,
    shared,
    onDeath: (index, error) => {
      log.error({ err: error, dispatcher: index }, "dispatcher died; another takes its place");
      // What it owed is settled before its announcements are retracted: a removal that waits for it then finds the books
      // complete.
      broker.dispatcherDied(index);
      return table.bury(index);
    },
    onReplaced: (index, restarts) => log.warn({ dispatcher: index, restarts }, "dispatcher replaced"),
    onPinningProblem: (index, problem) => log.warn({ dispatcher: index }, problem),
    onFatal,
  });
  undo.push(() => host.stop());

  const liveness = new LivenessWatch(host.threads, now, (level, fields, message) => log[level](fields, message));
  const tally = new Tally();
  const audit = new BooksAudit((message, fields) => log.error(fields, message));
  let housekeeping: NodeJS.Timeout | null = null;
  const onProblem = (armed: ArmedEvent, error: Error): void =>
    log.error({ err: error, event: armed.event.name }, "event could not be re-rated");
  const armedEvents: ArmedEvents = new ArmedEvents({
    source,
    tellAll: (control) => host.tellAll(control),
    onArmed: ({ event, rate }) => {
      log.info({ event: event.name, rate: rateText(rate) }, "event armed");
      // Only while something is armed: an idle daemon has nothing to look after.
      if (housekeeping !== null) return;
      overload.begin();
      housekeeping = setInterval(() => {
        kernelLoss.poll(broker.handlers);
        taskTracking.poll(broker.handlers);
        slowDispatches.poll(broker.handlers);
        liveness.look();
        void overload.look();
        void machine.look();
        booksFile.aliveNs = now();
      }, HOUSEKEEPING_MS);
    },
    onProblem,
    onRetired: (armed) => {
      const counters = eventCounters(host, armed.index);
      const reading = kernelLoss.retire(armed, broker.handlers);
      tally.retireEvent(counters, reading);
      audit.checkEvent({ name: armed.event.name, drained: counters.SAMPLES, ...reading });
      log.info({ event: armed.event.name, samples: counters.SAMPLES, kernel_lost: reading.lost ?? 0 }, "event closed");
      // No dispatcher counts for a closed event, so its words are free to be cleared for the next one.
      for (const { stats } of host.threads) {
        for (const stat of Object.values(EVENT_STAT)) stats.words[stats.event(armed.index, stat)] = 0;
      }
      if (armedEvents.all.length === 1 && housekeeping !== null) {
        clearInterval(housekeeping);
        housekeeping = null;
        overload.idle();
      }
    },
  });
  const kernelLoss = new KernelLossWatch(armedEvents);
  const auxBytes = { delivered: 0, lost: 0 };
  const taskTracking = new TaskTracking({
    source,
    tellAll: (control) => host.tellAll(control),
    lostRecords: () => host.threads.reduce((sum, { stats }) => sum + stats.words[DISPATCHER_STAT.LOST_RECORDS], 0),
    onProblem: (error) => log.error({ err: error }, "task records could not be reduced"),
  });
  const overload = new OverloadControl({
    dispatchers: host.threads,
    armedEvents,
    kernelLoss,
    get policy() {
      return live.current.overload;
    },
    limits: {
      get floorHz() {
        return live.limits.overloadRateFloorHz;
      },
      get raiseAfterNs() {
        return live.limits.overloadRaiseAfterMs * NS_PER_MS;
      },
    },
    canLower: source.kind === "perf",
    now,
    log: (level, fields, message) => log[level](fields, message),
    onProblem,
  });
  const cpuWatch = new CpuWatch({
    source,
    host,
    armedEvents,
    taskTracking,
    topologyOf: (cpus) => readTopology(cpus, liveCpuTree),
    wallClock: () => Date.now() / 1000,
    log: (level, fields, message) => log[level](fields, message),
  });
  const settingsWatch = new SettingsWatch({
    source,
    armedEvents,
    log: (level, fields, message) => log[level](fields, message),
  });
  const machine = new MachineWatch({
    cpus: cpuWatch,
    settings: settingsWatch,
    onProblem: (error) => log.error({ err: error }, "a change of CPUs or settings could not be followed"),
  });
  const slowDispatches = new SlowDispatchWatch(config.limits.slowDispatchUs, counters, now, (report) =>
    log.warn({ ...report, threshold_us: config.limits.slowDispatchUs }, "slow dispatch"),
  );
  const removalWait = new Float64Array(HISTOGRAM_WORDS);
  const dispatchToStream = new Float64Array(HISTOGRAM_WORDS);
  const sampleToStream = new Float64Array(HISTOGRAM_WORDS);
  const records =
    config.restart === "end"
      ? NO_RECORDS
      : new HandlerRecords(stateFiles, booksFile, {
          bootId,
          source,
          now,
          report: (message, fields) => log.error(fields, message),
        });
  const broker: Broker = new Broker({
    source,
    fallback: fallbackReason !== null,
    table,
    counters,
    host,
    armedEvents,
    kernelLoss,
    auxBytes,
    taskTracking,
    machine,
    get limits() {
      return live.limits;
    },
    tally,
    audit,
    removalWait: new LatencyHistogram(removalWait),
    dispatchToStream: new LatencyHistogram(dispatchToStream),
    sampleToStream: source.clockIsMonotonic ? new LatencyHistogram(sampleToStream) : null,
    outboxMemory: budgets.outboxes,
    streamMemory: budgets.streams,
    flushPacer: new FlushPacer({
      baseMs: config.limits.flushIntervalDefaultMs,
      maxMs: config.limits.flushIntervalDefaultMaxMs,
      onChange: (intervalMs) => void host.tellAll({ kind: "flush interval", intervalMs }),
    }),
    flushTimes: new FlushTimes(now),
    records,
    now,
    log: (event, fields, level = "info") => log[level](fields, event),
  });
  undo.push(() => {
    if (housekeeping !== null) clearInterval(housekeeping);
    return machine.stop();
  });
  const delivering = deliver(broker, host, shared.deliveryBell());
  undo.push(() => delivering.stop());

  let connections = (): ConnectionsSnapshot => NO_CONNECTIONS;
  const parts: CollectParts = {
    version,
    source,
    fallbackReason,
    table,
    counters,
    host,
    armedEvents,
    broker,
    tally,
    auxBytes,
    taskTracking,
    audit,
    slowDispatches,
    overload,
    cpuWatch,
    settingsWatch,
    removalWait,
    dispatchToStream,
    sampleToStream,
    budgets,
    connections: () => connections(),
    startedNs,
    now,
  };
  const snapshot = () => collect(parts);
  await host.started();
  const stopBroker = (): Promise<void> =>
    stopping.keep ? broker.suspend(SUSPEND_STREAMS_MS) : broker.stop(STOP_STREAMS_MS);
  undo.push(stopBroker);
  const onFault = (error: Error): void => log.error({ err: error }, "internal error");
  const authority: Authority = new Authority({
    path: config.policy,
    insecure: config.insecure,
    audit: (record) => log.warn(record, "request denied"),
    peerOf,
    onChange: () => void revokeHandlers(broker, authority).catch(onFault),
  });
  live.onReload(authority);
  if (recovered.length > 0) {
    const { gapNsMax, ...counts } = await broker.restore(recovered);
    const restored = { ...counts, gap_ms_max: Math.round(gapNsMax / NS_PER_MS), killed: recovery.wasKilled };
    log.info(restored, "handlers of the daemon before this one");
    // The policy may be another by now.
    await revokeHandlers(broker, authority);
  }
  let phase: DaemonPhase = "starting";
  const health = new Health({
    liveness,
    source,
    fallbackReason,
    armed: () => armedEvents.all.length,
    phase: () => phase,
    now,
  });
  const scraped = createMetrics(() => {
    liveness.look();
    return snapshot();
  }, now);
  const metrics = config.metrics === null ? null : await startMetricsServer(config.metrics, scraped, health, log);
  if (metrics !== null) undo.push(() => metrics.close());
  const addresses = { listen: [] as readonly string[], metrics: metrics?.address ?? "" };
  const implementation = brokerImplementation({
    authority,
    broker,
    source,
    snapshot,
    snapshotHandler: (handler) => handlerSnapshot(handler, parts),
    addresses: () => addresses,
    runtimeDir: config.runtimeDir,
    streams: new CallStreams({
      frames,
      onFallback: (problem) =>
        log.warn({ problem }, "grpc-js is not as expected: samples are sent through it, which is slower"),
    }),
    onFault,
  });
  const server = await startGrpcServer({
    ...config,
    passed: passedSockets(log),
    implementation,
    mayReflect: (call, rpc) => authority.identify(call, rpc).requireRule(),
    onFault,
    messageMaxBytes: config.limits.messageMaxBytes,
    limits: config.connectionLimits,
    now,
    log: (level, fields, message) => log[level](fields, message),
  });
  addresses.listen = server.addresses;
  connections = () => server.stats();
  undo.push(() => server.close(STOP_SERVER_MS));
  // Before the server closes; the other time is for a server that could not be had.
  undo.push(stopBroker);
  phase = "serving";
  undo.push(() => {
    phase = "stopping";
  });

  if (dispatchers > ringCpus.length) {
    log.warn(
      { dispatchers, rings: ringCpus.length },
      `dispatchers: ${dispatchers - ringCpus.length} of ${dispatchers} have no ring to drain; there is one ring a CPU`,
    );
  }
  if (fallbackReason !== null) {
    log.warn({ reason: fallbackReason }, "NO LIVE SAMPLES: the kernel refused; serving a recording instead");
  }
  for (const warning of source.warnings ?? []) log.warn({ source: source.description }, warning);
  log.info(
    {
      source: source.description,
      fallback: fallbackReason !== null,
      listen: server.addresses,
      metrics: addresses.metrics,
    },
    "ready",
  );
  live.onReload({
    prepare:
      ({ logLevel }) =>
      () => {
        log.level = logLevel;
      },
  });
  const serving = fallbackReason === null ? source.description : `${source.description} (NO LIVE SAMPLES)`;
  return {
    host,
    liveness,
    listen: server.addresses,
    metrics: addresses.metrics,
    status: () => `${serving}, ${count(broker.handlers.length, "handler")}, on ${server.addresses.join(" ")}`,
    reload: (fresh) => live.reload(fresh),
  };
}

function count(number: number, what: string): string {
  return `${number} ${what}${number === 1 ? "" : "s"}`;
}

/** What systemd has opened for this process, once: whom this one starts has nothing of it. */
function passedSockets(log: Logger): PassedSocket[] {
  const passed = passedFds(process.env, process.pid);
  for (const name of ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"]) delete process.env[name];
  return passed.flatMap((fd) => {
    const socket = listeningSocket(fd);
    if (socket === null) log.info(fd, "passed by the service manager, and no socket to listen on");
    return socket ?? [];
  });
}

function recoverFrom(runtimeDir: RuntimeDir, files: StateFiles, bootId: string, report: Report): Recovery {
  const left = runtimeDir.openLeft();
  try {
    return recover(files, { table: left.table?.memory ?? null, books: left.books?.memory ?? null }, bootId, report);
  } finally {
    left.table?.close();
    left.books?.close();
  }
}

/** Sleeps on the bell; wakes each handler whose outbox has something. */
function deliver(broker: Broker, host: DispatcherHost, bell: DeliveryBell): { stop: () => Promise<void> } {
  let stopped = false;
  const loop = (async () => {
    while (!stopped) {
      host.takeDirty((slot) => broker.wake(slot));
      await bell.sleep();
    }
  })();
  return {
    stop: async () => {
      stopped = true;
      bell.wake();
      await loop;
    },
  };
}
