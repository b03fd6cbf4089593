/** The counters that nmid exports of itself: names, help and how values follow from a snapshot. */
import { type Family, type Labels, perDispatcher, perEvent, perHandler, perKey, type Series, total } from "./family.js";
import type { LossSnapshot } from "./snapshot.js";

function byReason(labels: Labels, losses: readonly LossSnapshot[]): Series<number>[] {
  return losses.map(({ reason, count }) => ({ labels: { ...labels, reason }, value: count }));
}

const REASONS =
  "QUEUE_FULL and QUEUE_DROPPED_OLDEST: the consumer reads too slowly, give it a larger queue or a lower rate; " +
  "MEMORY: the same, and all queues together came near limits.memory_max_bytes; " +
  "DISCONNECTED: the same, and it asked to be cut off; STREAM_BROKEN, LEASE_EXPIRED: its connection failed; " +
  "DISCARDED, SHUTDOWN: asked for; DISPATCHER_DIED, RESTART: in the memory of a dispatcher that died, or of a daemon that was restarted";

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
  perKey(
    "nmid_books_unbalanced_total",
    "Books that did not balance when they were closed: of events (made = drained + lost in the rings) and of handlers (matched = delivered + lost). Must stay 0: a sample was dropped or counted twice. The log has both sides; report it as a bug.",
    "books",
    (s) => s.totals.unbalanced,
  ),
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
  perKey(
    "nmid_cpu_changes_total",
    "CPUs that went offline (GONE), came online (COME), or did both between two looks (BACK) while the daemon ran. What happened on a CPU meanwhile was not sampled; the log and nmictl status say when.",
    "kind",
    (s) => s.cpus.counts,
  ),
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
