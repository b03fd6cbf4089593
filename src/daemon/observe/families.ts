/** Every metric family that nmid exports of itself: names, help and how values follow from a snapshot. */
import type { EventRow, HandlerRow } from "./series.js";
import type { DispatcherSnapshot, HistogramSnapshot, LossSnapshot, MemoryPart, Snapshot } from "./snapshot.js";

export type Labels = Readonly<Record<string, string>>;

/** One scrape's input. */
export interface View {
  readonly snapshot: Snapshot;
  readonly events: readonly EventRow[];
  readonly handlers: readonly HandlerRow[];
}

export interface Family<Value> {
  readonly name: string;
  readonly help: string;
  readonly labelNames: readonly string[];
  /** All series of one scrape; label sets are unique. */
  values(view: View): readonly Series<Value>[];
}

export interface Series<Value> {
  readonly labels: Labels;
  readonly value: Value;
}

function total<Value>(name: string, help: string, value: (snapshot: Snapshot) => Value): Family<Value> {
  return { name, help, labelNames: [], values: ({ snapshot }) => [{ labels: {}, value: value(snapshot) }] };
}

/** Events for which `value` is undefined have no such series. */
function perEvent(name: string, help: string, value: (row: EventRow) => number | undefined): Family<number> {
  return {
    name,
    help,
    labelNames: ["event", "sampling"],
    values: ({ events }) =>
      events.flatMap((row) => {
        const v = value(row);
        return v === undefined ? [] : [{ labels: row.labels, value: v }];
      }),
  };
}

function perHandler(name: string, help: string, value: (row: HandlerRow) => number): Family<number> {
  return {
    name,
    help,
    labelNames: ["name"],
    values: ({ handlers }) => handlers.map((row) => ({ labels: row.labels, value: value(row) })),
  };
}

function perDispatcher(name: string, help: string, value: (d: DispatcherSnapshot) => number): Family<number> {
  return {
    name,
    help,
    labelNames: ["dispatcher"],
    values: ({ snapshot }) =>
      snapshot.dispatchers.map((d) => ({ labels: { dispatcher: String(d.index) }, value: value(d) })),
  };
}

function memory(name: string, help: string, value: (part: MemoryPart) => number): Family<number> {
  return {
    name,
    help,
    labelNames: ["part"],
    values: ({ snapshot }) =>
      (["segments", "outboxes", "streams"] as const).map((part) => ({
        labels: { part },
        value: value(snapshot.memory[part]),
      })),
  };
}

function byReason(labels: Labels, losses: readonly LossSnapshot[]): Series<number>[] {
  return losses.map(({ reason, count }) => ({ labels: { ...labels, reason }, value: count }));
}

const REASONS =
  "QUEUE_FULL and QUEUE_DROPPED_OLDEST: the consumer reads too slowly, give it a larger queue or a lower rate; " +
  "MEMORY: the same, and all queues together came near limits.memory_max_bytes; " +
  "DISCONNECTED: the same, and it asked to be cut off; STREAM_BROKEN, LEASE_EXPIRED: its connection failed; " +
  "DISCARDED, SHUTDOWN: asked for; RESTART: in the memory of a daemon that was restarted";

const REFUSALS =
  "connections, connections_of_peer, streams_of_peer, request_rate: a limit of the same name in the configuration; " +
  "handshake_timeout, protocol, control_frames, resets, receive_rate: no client that means well; keepalive: the peer vanished; " +
  "tls: no certificate that tls.client_ca has signed; unknown_peer, accept: the daemon's own trouble";

export const COUNTERS: readonly Family<number>[] = [
  total(
    "nmid_samples_total",
    "Samples drained from the rings since the daemon started. Flat while handlers exist: nothing runs on the sampled CPUs, or the kernel stopped sampling.",
    (s) => s.totals.samples,
  ),
  total(
    "nmid_matched_samples_total",
    "Samples that a handler's filter and rate accepted, once for each such handler. Equals delivered plus lost plus what is queued.",
    (s) => s.totals.matched,
  ),
  total(
    "nmid_delivered_samples_total",
    "Samples written to gRPC streams, once for each handler.",
    (s) => s.totals.delivered,
  ),
  {
    name: "nmid_lost_samples_total",
    help: `Matched samples that were not delivered, by reason. ${REASONS}. The daemon and other consumers are not affected.`,
    labelNames: ["reason"],
    values: ({ snapshot }) => byReason({}, snapshot.totals.losses),
  },
  total(
    "nmid_unclaimed_samples_total",
    "Samples that no handler's filter and rate accepted. They cost interrupts and help nobody: narrow the events of the handlers that are registered.",
    (s) => s.totals.unclaimed,
  ),
  total(
    "nmid_kernel_lost_samples_total",
    "Samples the kernel dropped because a ring was full. The dispatchers do not keep up: give the daemon more CPU, more dispatchers, or lower the rates.",
    (s) => s.totals.kernelLost,
  ),
  total(
    "nmid_task_records_total",
    "Task records drained: COMM, MMAP2, FORK, EXIT and their like, for handlers that want them.",
    (s) => s.totals.taskRecords,
  ),
  total(
    "nmid_task_records_lost_total",
    "Task records that the kernel dropped, or that a handler's queue had no room for. Each handler is given a new snapshot.",
    (s) => s.totals.taskRecordsLost,
  ),
  total("nmid_aux_bytes_total", "Bytes drained of AUX areas (Intel PT and its like).", (s) => s.totals.auxBytes),
  total(
    "nmid_aux_delivered_bytes_total",
    "Bytes of AUX data written to gRPC streams, once for each handler.",
    (s) => s.totals.auxBytesDelivered,
  ),
  total(
    "nmid_aux_lost_bytes_total",
    "Bytes of AUX data that were drained and not delivered to a handler: its queue was full, or its stream broke. Each loss is told to it.",
    (s) => s.totals.auxBytesLost,
  ),
  total(
    "nmid_aux_corrupt_bytes_total",
    "Bytes that records named and no AUX area held. Must stay 0: report anything else as a bug, with the kernel's version.",
    (s) => s.totals.auxCorruptBytes,
  ),
  total(
    "nmid_aux_untold_bytes_total",
    "Bytes in AUX areas that the kernel had no room to tell of in a ring, given back unread. Handlers see a gap between two offsets.",
    (s) => s.totals.auxUntoldBytes,
  ),
  total(
    "nmid_aux_truncated_total",
    "Times an AUX area was full and its event stood still until room was made. The trace has gaps there: narrow the event, or give the daemon more CPU.",
    (s) => s.totals.auxTruncated,
  ),
  total(
    "nmid_throttled_total",
    "Times the kernel throttled an event for exceeding its interrupt budget. Samples are missing: lower the rate, or raise kernel.perf_cpu_time_max_percent. A lower bound, since the kernel can lose these records too.",
    (s) => s.totals.throttled,
  ),
  {
    name: "nmid_books_unbalanced_total",
    help: "Books that did not balance when they were closed: of events (made = drained + lost in the rings) and of handlers (matched = delivered + lost). Must stay 0: a sample was dropped or counted twice. The log has both sides; report it as a bug.",
    labelNames: ["books"],
    values: ({ snapshot }) =>
      Object.entries(snapshot.totals.unbalanced).map(([books, value]) => ({ labels: { books }, value })),
  },
  total("nmid_registrations_total", "Handlers registered since the daemon started.", (s) => s.totals.registrations),
  total(
    "nmid_removals_total",
    "Handlers removed since the daemon started, by Deregister, lease, or overflow.",
    (s) => s.totals.removals,
  ),

  perEvent("nmid_event_samples_total", "Samples drained, by armed event.", (e) => e.samples),
  perEvent("nmid_event_unclaimed_samples_total", "Samples of the event that no handler accepted.", (e) => e.unclaimed),
  perEvent(
    "nmid_event_kernel_lost_samples_total",
    "Samples of the event that the kernel dropped because a ring was full. See nmid_kernel_lost_samples_total.",
    (e) => e.kernelLost,
  ),
  perEvent(
    "nmid_event_throttle_total",
    "Times the kernel throttled the event. See nmid_throttled_total.",
    (e) => e.throttled,
  ),
  perEvent(
    "nmid_event_unthrottle_total",
    "Times the kernel let a throttled event run again. Staying below nmid_event_throttle_total: the event may be stopped now.",
    (e) => e.unthrottled,
  ),

  perHandler("nmid_handler_matched_samples_total", "Samples the handler's filter and rate accepted.", (h) => h.matched),
  perHandler(
    "nmid_handler_delivered_samples_total",
    "Samples written to the handler's stream. Flat while matched rises: the consumer is not subscribed or does not read.",
    (h) => h.delivered,
  ),
  {
    name: "nmid_handler_lost_samples_total",
    help: `Samples the handler matched and was not delivered, by reason. ${REASONS}.`,
    labelNames: ["name", "reason"],
    values: ({ handlers }) => handlers.flatMap((row) => byReason(row.labels, row.losses)),
  },
  perHandler("nmid_handler_dispatches_total", "Batches offered to the handler.", (h) => h.dispatches),

  perDispatcher(
    "nmid_dispatcher_wakeups_total",
    "Times the dispatcher thread woke. Rising with no handler registered: something keeps the daemon from idling.",
    (d) => d.wakeups,
  ),
  perDispatcher("nmid_dispatcher_drains_total", "Rings drained by the dispatcher.", (d) => d.drains),
  perDispatcher(
    "nmid_dispatcher_samples_total",
    "Samples drained by the dispatcher. Very uneven over dispatchers: the load sits on few CPUs, or more dispatchers do not help.",
    (d) => d.samples,
  ),
  perDispatcher(
    "nmid_dispatcher_corrupt_bytes_total",
    "Bytes skipped in rings because they were no valid records. Must stay 0: report anything else as a bug, with the kernel's version.",
    (d) => d.corruptBytes,
  ),
  perDispatcher(
    "nmid_dispatcher_stray_samples_total",
    "Drained samples that belong to no armed event. Must stay 0: rings are drained before an event is forgotten. Report anything else as a bug.",
    (d) => d.straySamples,
  ),
  perDispatcher(
    "nmid_dispatcher_restarts_total",
    "Times the dispatcher's thread died and another took its place. Must stay 0: the log says why it died; handlers were told what they lost with the reason DISPATCHER_DIED.",
    (d) => d.restarts,
  ),
  perDispatcher(
    "nmid_dispatcher_busy_seconds_total",
    "Time the dispatcher was not asleep. Its rate is the share of its thread that is used: near 1, it is about to fall behind.",
    (d) => d.busySeconds,
  ),
  total(
    "nmid_overload_episodes_total",
    "Times the daemon became overloaded. See nmid_overloaded; the log says when and why, and what was lost.",
    (s) => s.overload.episodes,
  ),
  {
    name: "nmid_cpu_changes_total",
    help: "CPUs that went offline (GONE), came online (COME), or did both between two looks (BACK) while the daemon ran. What happened on a CPU meanwhile was not sampled; the log and nmictl status say when.",
    labelNames: ["kind"],
    values: ({ snapshot }) =>
      Object.entries(snapshot.cpus.counts).map(([kind, value]) => ({ labels: { kind }, value })),
  },
  total(
    "nmid_connections_accepted_total",
    "Connections that were let in. Rising fast: clients connect for every call instead of keeping a connection.",
    (s) => s.connections.accepted,
  ),
  {
    name: "nmid_refused_total",
    help: `Connections and calls refused, or cut off, by reason. ${REFUSALS}. The log names the peers.`,
    labelNames: ["reason"],
    values: ({ snapshot }) =>
      snapshot.connections.refused.map(({ reason, count }) => ({ labels: { reason }, value: count })),
  },
  total(
    "nmid_slow_dispatches_total",
    "Dispatches that took longer than limits.slow_dispatch_us. The log names the handlers; nmid_handler_dispatch_seconds shows their times.",
    (s) => s.totals.slowDispatches,
  ),
];

const HANDLER_STATES = ["CLAIMED", "ACTIVE", "DRAINING"] as const;

export const GAUGES: readonly Family<number>[] = [
  {
    name: "nmid_connections",
    help: "Open connections of clients, by the way they came: a Unix socket, TLS, or plain TCP.",
    labelNames: ["kind"],
    values: ({ snapshot }) =>
      Object.entries(snapshot.connections.open).map(([kind, value]) => ({ labels: { kind }, value })),
  },
  {
    name: "nmid_tls_certificate_expiry_timestamp_seconds",
    help: "When the certificate in use ceases to be valid. Alert well before: clients then no longer connect. Absent without TLS.",
    labelNames: [],
    values: ({ snapshot: { connections } }) =>
      connections.certificateExpiresAt === null ? [] : [{ labels: {}, value: connections.certificateExpiresAt }],
  },
  total(
    "nmid_overloaded",
    "1: dispatchers do not keep up with the rings, and the kernel drops samples or is about to. Give the daemon more CPU, more dispatchers or larger rings, or lower the rates; with --overload lower it does that itself. Alert on it.",
    (s) => (s.overload.overloaded ? 1 : 0),
  ),
  total("nmid_cpus_watched", "CPUs whose rings are drained.", (s) => s.cpus.watched.length),
  total(
    "nmid_kernel_max_sample_rate_hertz",
    "kernel.perf_event_max_sample_rate as of the last look. The kernel lowers it by itself when its interrupts take too long, and never raises it: what samples faster is held below it. Raise it with sysctl. 0 where the source asks no kernel.",
    (s) => s.kernelSettings?.maxSampleRateHz ?? 0,
  ),
  total(
    "nmid_events_armed",
    "Kernel events open now. 0 without handlers: then sampling costs nothing.",
    (s) => s.events.length,
  ),
  perEvent(
    "nmid_event_frequency_hertz",
    "Rate at which the kernel samples the event on each CPU: the highest that any of its handlers asked for, unless nmid_event_lowered_ratio is below 1. Only for sampling by frequency.",
    (e) => (e.labels.sampling === "frequency" ? e.frequencyHz : undefined),
  ),
  perEvent(
    "nmid_event_period",
    "Occurrences of the event (nanoseconds for clocks) from one sample to the next: the shortest that any of its handlers asked for, unless nmid_event_lowered_ratio is below 1. Only for sampling by period.",
    (e) => (e.labels.sampling === "period" ? e.period : undefined),
  ),
  perEvent(
    "nmid_event_lowered_ratio",
    "Share of the rate asked for at which the event is sampled. Below 1: the daemon is or was overloaded and has lowered it (--overload lower, see nmid_overloaded), or the kernel allows no more (nmid_kernel_max_sample_rate_hertz); weights stay right, but there are fewer samples.",
    (e) => e.loweredRatio,
  ),
  perEvent(
    "nmid_event_multiplexing_ratio",
    "Share of its enabled time in which the event was on the PMU. Below 1: more events than hardware counters, samples cover only that share. 0: it cannot be scheduled at all, something else (the NMI watchdog, another profiler) holds the counters.",
    (e) => (e.timeEnabledSeconds > 0 ? e.timeRunningSeconds / e.timeEnabledSeconds : undefined),
  ),

  {
    name: "nmid_handlers",
    help: "Handlers by state. DRAINING for long: a removal waits for a dispatcher or for its stream to take what is queued.",
    labelNames: ["state"],
    values: ({ snapshot }) =>
      HANDLER_STATES.map((state) => ({
        labels: { state },
        value: snapshot.handlers.filter((handler) => handler.state === state).length,
      })),
  },
  total(
    "nmid_handler_table_capacity",
    "Slots of the handler table. When the sum of nmid_handlers comes near, registrations fail with RESOURCE_EXHAUSTED: raise --capacity.",
    (s) => s.capacity,
  ),
  perHandler(
    "nmid_handler_queue_bytes",
    "Bytes that wait for the handler's stream. Near nmid_handler_queue_max_bytes: the consumer is about to lose samples.",
    (h) => h.queueBytes,
  ),
  perHandler("nmid_handler_queue_max_bytes", "Bound of the handler's queue.", (h) => h.queueMaxBytes),
  perHandler(
    "nmid_handler_longest_dispatch_seconds",
    "Longest time that offering one batch to the handler took. It delays the handlers behind it in the table: look for filters that match very much.",
    (h) => h.longestDispatchNs / 1e9,
  ),
  perHandler(
    "nmid_handler_subscribed",
    'Whether the handler has a stream (for "(others)": how many have one). 0: it is removed when its lease runs out.',
    (h) => h.subscribed,
  ),

  total(
    "nmid_removal_oldest_seconds",
    "How long the oldest removal of a handler that is under way has lasted; 0 when there is none. Seconds: its reader does not take what is left, or a dispatcher hangs. nmictl handlers shows who is DRAINING; a Deregister with discard ends it.",
    (s) => s.removalOldestSeconds,
  ),
  perDispatcher(
    "nmid_dispatcher_unanswered_seconds",
    "How long the dispatcher has owed an answer to what it was told; each scrape asks it. 0 but for an instant: seconds mean a thread that hangs or gets no CPU, and from 10 on /healthz fails.",
    (d) => d.unansweredSeconds,
  ),

  memory(
    "nmid_memory_bytes",
    "What consumers make the daemon hold. segments: samples that wait for their streams; outboxes: one for each handler, and what its filter takes; streams: messages that the transport has not taken yet, and frames that are kept for the next ones. Near nmid_memory_limit_bytes: consumers read too slowly, and those that hold most begin to lose samples with the reason MEMORY.",
    (part) => part.usedBytes,
  ),
  memory(
    "nmid_memory_peak_bytes",
    "The most that nmid_memory_bytes has been since the daemon started.",
    (part) => part.peakBytes,
  ),
  memory(
    "nmid_memory_limit_bytes",
    "Bounds of nmid_memory_bytes; together limits.memory_max_bytes.",
    (part) => part.limitBytes,
  ),

  {
    name: "nmid_source_info",
    help: "Where samples come from. Always 1; kind is perf (this machine's kernel), replay (a recording) or synthetic (a load generator).",
    labelNames: ["kind", "description", "clock", "default_event"],
    values: ({ snapshot: { source } }) => [
      {
        labels: {
          kind: source.kind,
          description: source.description,
          clock: source.clock,
          default_event: source.defaultEvent,
        },
        value: 1,
      },
    ],
  },
  total(
    "nmid_source_fallback",
    "1: THESE SAMPLES ARE NOT OF THIS MACHINE. The kernel refused live sampling and the daemon replays a shipped recording instead; nmictl status and the log name the missing setting or capability. Alert on it.",
    (s) => (s.source.fallback ? 1 : 0),
  ),
  {
    name: "nmid_build_info",
    help: "Version of nmid and of the Node.js that runs it. Always 1.",
    labelNames: ["version", "node"],
    values: ({ snapshot }) => [{ labels: { version: snapshot.version, node: process.version }, value: 1 }],
  },
  total(
    "nmid_uptime_seconds",
    "Seconds since the daemon started. Falls when it restarted: all handlers had to register again.",
    (s) => s.uptimeSeconds,
  ),
];

export const HISTOGRAMS: readonly Family<HistogramSnapshot>[] = [
  {
    name: "nmid_dispatch_latency_seconds",
    help: "Age of samples by stage. ring_to_dispatch: from the interrupt to the dispatch; grows when dispatchers lack CPU or rings are drained late (a consumer's flush interval sets how late). dispatch_to_stream: from there to the gRPC stream; grows when the main thread is busy or consumers read slowly. sample_to_stream: both together, of what was delivered. ring_to_dispatch and sample_to_stream stay empty where the source's clock is not this machine's.",
    labelNames: ["stage"],
    values: ({ snapshot }) => [
      { labels: { stage: "ring_to_dispatch" }, value: snapshot.ringToDispatch },
      { labels: { stage: "dispatch_to_stream" }, value: snapshot.dispatchToStream },
      { labels: { stage: "sample_to_stream" }, value: snapshot.sampleToStream },
    ],
  },
  {
    name: "nmid_dispatcher_ring_fill_ratio",
    help: "How full rings were, 0 to 1, when the dispatcher came to drain them. They wake it when they are half full: above 0.9 it comes late or drains too slowly, and the kernel is about to drop samples.",
    labelNames: ["dispatcher"],
    values: ({ snapshot }) =>
      snapshot.dispatchers.map((d) => ({ labels: { dispatcher: String(d.index) }, value: d.ringFill })),
  },
  total(
    "nmid_removal_wait_seconds",
    "Time that removals of handlers waited for dispatchers to leave them. Bounded by the longest dispatch; seconds mean a dispatcher that does not get CPU.",
    (s) => s.removalWait,
  ),
  {
    name: "nmid_handler_dispatch_seconds",
    help: "Time that offering one batch to the handler took. A handler whose dispatches are slow delays those behind it in the table: look for filters that match very much.",
    labelNames: ["name"],
    values: ({ handlers }) => handlers.map((row) => ({ labels: row.labels, value: row.dispatchTime })),
  },
];
