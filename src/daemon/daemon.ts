/** Composition: builds the daemon from its parts, in order, and takes it down in the opposite one. */
import type { RingDescriptor } from "../pmu/source.js";
import { liveCpuTree, readTopology, UNKNOWN_TOPOLOGY } from "../pmu/topology.js";
import { type ArmedEvent, ArmedEvents } from "./broker/armed-events.js";
import { BooksAudit } from "./broker/audit.js";
import { Broker } from "./broker/broker.js";
import { CpuWatch } from "./broker/cpu-watch.js";
import { KernelLossWatch } from "./broker/kernel-loss.js";
import { MachineWatch } from "./broker/machine-watch.js";
import { OverloadControl } from "./broker/overload.js";
import { rateText } from "./broker/rates.js";
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
import { FramePool } from "./grpc/frame-pool.js";
import { eventCounters } from "./observe/collect.js";
import { HISTOGRAM_WORDS, LatencyHistogram } from "./observe/histogram.js";
import { LivenessWatch } from "./observe/liveness.js";
import type { Logger } from "./observe/log.js";
import { SlowDispatchWatch } from "./observe/slow-dispatch.js";
import { openTable } from "./open-table.js";
import { RuntimeDir } from "./runtime-dir.js";
import { serve } from "./serve.js";
import { HandlerRecords, NO_RECORDS } from "./state/records.js";
import { Undo } from "./undo.js";

/** Streams get this long to take what is left and their end, when the daemon stops. */
const STOP_STREAMS_MS = 3000;
/** Nobody counts while handlers are left to the next daemon: who keeps up has taken what is left in a fraction of this. */
const SUSPEND_STREAMS_MS = 1000;
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
  const shared = new SharedMemory(capacity, dispatchers);
  const opened = openTable(config, runtimeDir, shared, log, undo);
  const { table, counters, booksFile } = opened;

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
    tableAddress: opened.address,
    tableBytes: opened.bytes,
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
      : new HandlerRecords(opened.stateFiles, booksFile, {
          bootId: opened.bootId,
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

  await host.started();
  const stopBroker = (): Promise<void> =>
    stopping.keep ? broker.suspend(SUSPEND_STREAMS_MS) : broker.stop(STOP_STREAMS_MS);
  undo.push(stopBroker);
  const idle = dispatchers - ringCpus.length;
  if (idle > 0) {
    log.warn(
      { dispatchers, rings: ringCpus.length },
      `dispatchers: ${idle} of ${dispatchers} have no ring to drain; there is one ring a CPU`,
    );
  }
  const serving = await serve({
    config,
    live,
    log,
    undo,
    stopBroker,
    liveness,
    frames,
    opened,
    counted: {
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
      startedNs,
      now,
    },
  });
  return { host, liveness, ...serving, reload: (fresh) => live.reload(fresh) };
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
