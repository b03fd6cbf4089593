/** The gauges and histograms that nmid exports of itself: names, help and how values follow from a snapshot. */
import { type Family, info, memory, perDispatcher, perEvent, perHandler, perKey, total } from "./family.js";
import type { HistogramSnapshot } from "./snapshot.js";

const HANDLER_STATES = ["CLAIMED", "ACTIVE", "DRAINING"] as const;

export const GAUGES: readonly Family<number>[] = [
  perKey(
    "nmid_connections",
    "Open connections of clients, by the way they came: a Unix socket, TLS, or plain TCP.",
    "kind",
    (s) => s.connections.open,
  ),
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

  info(
    "nmid_source_info",
    "Where samples come from. Always 1; kind is perf (this machine's kernel), replay (a recording) or synthetic (a load generator).",
    ["kind", "description", "clock", "default_event"],
    ({ source: { kind, description, clock, defaultEvent } }) => ({
      kind,
      description,
      clock,
      default_event: defaultEvent,
    }),
  ),
  total(
    "nmid_source_fallback",
    "1: THESE SAMPLES ARE NOT OF THIS MACHINE. The kernel refused live sampling and the daemon replays a shipped recording instead; nmictl status and the log name the missing setting or capability. Alert on it.",
    (s) => (s.source.fallback ? 1 : 0),
  ),
  info(
    "nmid_build_info",
    "Version of nmid and of the Node.js that runs it. Always 1.",
    ["version", "node"],
    ({ version }) => ({
      version,
      node: process.version,
    }),
  ),
  total(
    "nmid_uptime_seconds",
    "Seconds since the daemon started. Falls when it restarted: handlers go on unless their lease ran out meanwhile, or the daemon was told to end them.",
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
