/** What is kept of a handler for the next daemon, and how it is checked when it is read: whoever can write there is not trusted. */
import { z } from "zod";
import { CAPACITY_MAX, GENERATION_MAX, LOSS_REASONS } from "../../registry/layout.js";
import { EVENTS_PER_HANDLER_MAX } from "../delivery/outbox.js";

/** Of the files in the state directory. Another version's are not read. */
export const STATE_VERSION = 1;

const count = z.int().min(0);
/** Sums of periods are doubles, whole but for very large ones. */
const weight = z.number().min(0);
const reason = z.enum(LOSS_REASONS);
/** By LOSS_REASONS, which only grows: a daemon before an upgrade may have known fewer. */
const byReason = z
  .array(count)
  .max(LOSS_REASONS.length)
  .transform((counts) => LOSS_REASONS.map((_, i) => counts[i] ?? 0));
const event = z
  .int()
  .min(0)
  .max(EVENTS_PER_HANDLER_MAX - 1);
const uint32 = z
  .int()
  .min(0)
  .max(2 ** 32 - 1);

/** nmi.v1.RegisterRequest as it was checked once, and will be again. */
const request = z.object({
  name: z.string().min(1),
  events: z.array(z.object({ event: z.string(), frequency_hz: uint32, period: count })),
  filter: z
    .object({
      pids: z.array(uint32),
      cpus: z.array(uint32),
      uids: z.array(uint32),
      cgroups: z.array(z.string()),
      exclude_user: z.boolean(),
      exclude_kernel: z.boolean(),
    })
    .nullable(),
  fields: z.array(z.string()),
  queue: z
    .object({
      max_bytes: count,
      overflow: z.string(),
      flush: z.string().optional(),
      flush_interval_ms: uint32.optional(),
    })
    .nullable(),
  lease_ms: uint32,
  tasks: z.boolean(),
  context_switches: z.boolean(),
  exclusive: z.boolean(),
  branch_sample_type: count,
});

const carried = z.object({
  settled: z
    .array(
      z.object({
        delivered: count,
        periodDelivered: weight,
        periodLost: weight,
        lost: byReason,
      }),
    )
    .max(EVENTS_PER_HANDLER_MAX),
  untold: z.array(z.object({ event, reason, count, period: weight, firstNs: weight, lastNs: weight })),
  gaps: z.array(
    z.object({
      event,
      reason,
      count,
      of: z.enum(["samples", "tasks", "aux"]),
      firstNs: weight.optional(),
      lastNs: weight.optional(),
    }),
  ),
});

const ids = z.array(
  z
    .int()
    .min(0)
    .max(2 ** 32 - 1),
);
const text = z.string();

/** On which it was registered: who may have it, and what of the samples it is given. */
const terms = z.strictObject({
  principal: text,
  registrant: z
    .discriminatedUnion("kind", [
      z.object({ kind: z.literal("unix"), uid: z.int(), gid: z.int(), pid: z.int(), groups: ids }),
      z.object({ kind: z.literal("tls"), address: text, commonName: text, names: z.array(text), fingerprint: text }),
      z.object({ kind: z.literal("tcp"), address: text }),
    ])
    .nullable(),
  visibility: z.strictObject({
    kernelAddresses: z.boolean(),
    owner: z.strictObject({ uids: ids.min(1), gid: z.int().nullable() }).nullable(),
  }),
});

export const savedHandlerSchema = z
  .object({
    version: z.literal(STATE_VERSION),
    /** /proc/sys/kernel/random/boot_id: times are of this boot's CLOCK_MONOTONIC. */
    bootId: z.string(),
    slot: z
      .int()
      .min(0)
      .max(CAPACITY_MAX - 1),
    generation: z.int().min(1).max(GENERATION_MAX),
    peer: z.string(),
    terms,
    /** Seconds since the epoch. */
    registeredAt: z.number().min(0),
    /** CLOCK_MONOTONIC, when it went ACTIVE. */
    activeNs: weight,
    source: z.object({ kind: z.string(), clock: z.string() }),
    /** As many as the wire tells of. */
    events: z.int().min(1).max(EVENTS_PER_HANDLER_MAX),
    leaseMs: z.int().min(1),
    request,
    /** What it was left with by a daemon that was stopped; null while that runs, and when it was killed. */
    left: z
      .object({
        everSubscribed: z.boolean(),
        /** CLOCK_MONOTONIC */
        leaseEndsNs: weight,
        /** Since when nobody counted its events. */
        stoppedNs: weight,
        carried,
      })
      .nullable(),
  })
  .refine(
    ({ left, events }) =>
      left === null ||
      (left.carried.settled.length === events &&
        [...left.carried.untold, ...left.carried.gaps].every((loss) => loss.event < events)),
    { error: "events: not as many as there are books of" },
  );

export type SavedHandler = z.output<typeof savedHandlerSchema>;

export const savedDaemonSchema = z.object({
  version: z.literal(STATE_VERSION),
  bootId: z.string(),
  /** No id was given out with a generation above. */
  generationFloor: z.int().min(0).max(GENERATION_MAX),
});

export type SavedDaemon = z.output<typeof savedDaemonSchema>;
