/** The commands that ask the daemon one thing: status, events, handlers, watch, deregister. */
import type {
  ArmedEvent,
  BrokerClient,
  CpuChange,
  CpusStatus,
  GetStatusResponse,
  Handler,
  KernelSettings,
  ListEventsResponse,
  Overload,
} from "../typescript/index.js";
import {
  formatBytes,
  formatCpus,
  formatLosses,
  formatNs,
  formatRate,
  formatTable,
  type Output,
  printable,
} from "./output.js";

export async function status(client: BrokerClient, output: Output, json: boolean): Promise<void> {
  const answer = await client.getStatus();
  await (json ? output.writeJson(answer) : output.write(formatStatus(answer)));
}

export async function events(
  client: BrokerClient,
  output: Output,
  json: boolean,
  pattern: string | undefined,
): Promise<void> {
  const answer = await client.listEvents();
  const matches = matcher(pattern);
  const listed = { ...answer, events: answer.events.filter(({ name, aliases }) => [name, ...aliases].some(matches)) };
  await (json ? output.writeJson(listed) : output.write(formatEvents(listed)));
}

export async function handlers(client: BrokerClient, output: Output, json: boolean): Promise<void> {
  const answer = await client.listHandlers();
  await (json ? output.writeJson(answer) : output.write(formatTable(HANDLER_HEAD, answer.handlers.map(handlerRow))));
}

export async function watch(client: BrokerClient, output: Output, json: boolean, signal: AbortSignal): Promise<void> {
  try {
    for await (const change of client.watchHandlers({ signal })) {
      if (json) await output.writeJson(change);
      else if (change.handler === null) await output.write(`${change.kind}\n`);
      else await output.write(`${change.kind.padEnd(12)}  ${formatHandler(change.handler)}\n`);
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}

export async function deregister(
  client: BrokerClient,
  output: Output,
  json: boolean,
  handlerId: number,
  options: { readonly timeout?: number; readonly discard?: true },
): Promise<void> {
  const books = await client.deregister(handlerId, { timeoutMs: options.timeout, discard: options.discard });
  if (json) return output.writeJson(books);
  const losses = formatLosses(books.losses);
  await output.write(
    `matched ${books.matched}, delivered ${books.delivered}, lost ${books.lost}${losses && ` (${losses})`}, ` +
      `last sequence ${books.lastSequence}, waited ${formatNs(books.waitedNs)}\n`,
  );
}

/** `*` stands for anything; a pattern without one may be found anywhere. Case does not matter. */
function matcher(pattern: string | undefined): (name: string) => boolean {
  if (pattern === undefined) return () => true;
  const escaped = pattern.replace(/[.+?^${}()|[\]\\]/g, "\\$&").replaceAll("*", ".*");
  const expression = new RegExp(pattern.includes("*") ? `^${escaped}$` : escaped, "i");
  return (name) => expression.test(name);
}

function formatEvents(answer: ListEventsResponse): string {
  const rows = answer.events.map((event) => [
    event.name,
    event.group,
    // Reasons are sentences: only in the last column do they leave the table its shape.
    event.aliases.join(", "),
    event.canSample ? "yes" : `no: ${event.reason}`,
  ]);
  const pmus = answer.pmus.map((pmu) => [pmu.name, String(pmu.type), pmu.cpus || "all"]);
  return (
    formatTable(["EVENT", "KIND", "ALIASES", "CAN SAMPLE"], rows) +
    `\n${formatTable(["PMU", "TYPE", "CPUS"], pmus)}\ndefault event: ${answer.defaultEvent}\n`
  );
}

const HANDLER_HEAD = ["ID", "NAME", "STATE", "EVENTS", "MATCHED", "DELIVERED", "LOST", "QUEUE", "LONGEST", "STREAM"];

function handlerRow(handler: Handler): string[] {
  return [
    String(handler.handlerId),
    handler.name,
    handler.state,
    handler.events.map((event) => event.name + formatRate(event)).join(", "),
    String(handler.matched),
    String(handler.delivered),
    String(handler.lost),
    `${formatBytes(handler.queueBytes)} of ${formatBytes(handler.queueMaxBytes)}`,
    formatNs(handler.longestDispatchNs),
    handler.subscribed ? "subscribed" : `lease ${(handler.leaseRemainingMs / 1000).toFixed(1)} s`,
  ];
}

function formatHandler(handler: Handler): string {
  const [id, name, state, eventList, matched, delivered, lost, , , streamState] = handlerRow(handler).map(printable);
  const books = `matched ${matched}, delivered ${delivered}, lost ${lost}`;
  return `${id}  ${name}  ${state}  ${eventList}  ${books}  ${streamState}`;
}

function formatShare(ratio: number): string {
  return `${(100 * ratio).toFixed(0)} %`;
}

function formatOverload(overload: Overload | null): string {
  if (overload === null) return "not told by this daemon";
  const { overloaded, episodes, sinceSeconds, kernelLost, reason } = overload;
  if (!overloaded) return episodes === 0 ? "none" : `none now, ${episodes} since the start`;
  return `OVERLOADED for ${sinceSeconds.toFixed(1)} s, ${kernelLost} samples lost by the kernel: ${reason}`;
}

/** What is in force while a rate is lowered. */
function formatLowered(event: ArmedEvent): string {
  const lowered = formatRate({ frequencyHz: event.loweredFrequencyHz, period: event.loweredPeriod });
  return lowered === "" ? "" : `, LOWERED${event.loweredByKernel ? " BY THE KERNEL" : ""}:${lowered}`;
}

const CHANGES_SHOWN = 5;
const CHANGE_VERBS: Readonly<Record<CpuChange["kind"], string>> = {
  KIND_UNSPECIFIED: "changed",
  GONE: "went",
  COME: "came",
  BACK: "went and came back",
};

function formatCpuChange({ cpu, kind, at, watchedUntil }: CpuChange): string {
  const gap = kind !== "GONE" && watchedUntil > 0 ? `, not sampled since ${formatTime(watchedUntil)}` : "";
  return `CPU ${cpu} ${CHANGE_VERBS[kind]} ${formatTime(at)}${gap}`;
}

function formatTime(unixSeconds: number): string {
  return new Date(unixSeconds * 1000).toISOString();
}

function formatWatched({ watched, changes, changesTotal }: CpusStatus): string {
  const none = changesTotal === 0 ? "" : `, ${changesTotal} changes since the start`;
  return [`${formatCpus(watched) || "none"}${none}`, ...changes.slice(-CHANGES_SHOWN).map(formatCpuChange)].join("; ");
}

function formatSettings(settings: KernelSettings): string {
  const paranoid = settings.paranoidKnown ? settings.perfEventParanoid : "hidden";
  return `perf_event_paranoid ${paranoid}, perf_event_max_sample_rate ${settings.perfEventMaxSampleRate}`;
}

function formatAuxTotals({
  auxBytes,
  auxBytesDelivered,
  auxBytesLost,
}: NonNullable<GetStatusResponse["totals"]>): [string, string] {
  const delivered = `delivered ${formatBytes(auxBytesDelivered)}, lost ${formatBytes(auxBytesLost)}`;
  return ["AUX data", `${formatBytes(auxBytes)}, ${delivered}`];
}

function formatStatus(answer: GetStatusResponse): string {
  const { totals } = answer;
  const lines: [string, string][] = [
    ["version", `${answer.version}, pid ${answer.pid}, up ${answer.uptimeSeconds.toFixed(1)} s`],
    ["source", answer.fallback ? `${answer.source}, A STAND-IN: ${answer.sourceReason}` : answer.source],
    ["clock", answer.clock],
    ["default event", answer.defaultEvent],
    ["gRPC", answer.listenAddresses.join(", ")],
    ["metrics", answer.metricsAddress],
    ["runtime dir", answer.runtimeDir],
    ["handlers", `${answer.handlers} of ${answer.capacity}`],
    ["overload", formatOverload(answer.overload)],
  ];
  if (answer.cpus !== null) lines.push(["CPUs", formatWatched(answer.cpus)]);
  if (answer.kernelSettings !== null) lines.push(["kernel", formatSettings(answer.kernelSettings)]);
  for (const { name, refused } of answer.events) {
    if (refused !== "") lines.push(["refused now", `${name}, which goes on all the same: ${refused}`]);
  }
  if (totals) {
    lines.push(
      ["samples", `${totals.samples}, unclaimed ${totals.unclaimed}, lost by the kernel ${totals.kernelLost}`],
      ["handlers' books", `matched ${totals.matched}, delivered ${totals.delivered}, lost ${totals.lost}`],
      [
        "audit",
        answer.unbalanced === 0 ? "all books balanced" : `${answer.unbalanced} BOOKS DID NOT BALANCE: see the log`,
      ],
      ...(totals.auxBytes === 0 ? [] : [formatAuxTotals(totals)]),
      ["since the start", `${totals.registrations} registrations, ${totals.removals} removals`],
    );
  }
  const dispatchers = answer.dispatchers.map((one) => [
    String(one.index),
    formatCpus(one.cpus) || "-",
    formatCpus(one.pinnedCpus) || "-",
    String(one.wakeups),
    String(one.drains),
    String(one.samples),
    String(one.corruptBytes),
    formatShare(one.busyRatio),
    formatShare(one.ringFillPeak),
  ]);
  const armed = answer.events.map((event) => [
    event.name + formatRate(event) + formatLowered(event),
    String(event.handlers),
    String(event.samples),
    String(event.unclaimed),
    String(event.kernelLost),
    String(event.throttled),
    event.timeEnabledSeconds > 0 ? formatShare(event.timeRunningSeconds / event.timeEnabledSeconds) : "-",
  ]);
  return (
    lines.map(([name, value]) => `${`${name}:`.padEnd(17)}${value}\n`).join("") +
    `\n${formatTable(["DISPATCHER", "CPUS", "PINNED TO", "WAKEUPS", "DRAINS", "SAMPLES", "CORRUPT BYTES", "BUSY", "FULLEST RING"], dispatchers)}` +
    (armed.length === 0
      ? "\nno event is armed\n"
      : `\n${formatTable(["ARMED EVENT", "HANDLERS", "SAMPLES", "UNCLAIMED", "KERNEL LOST", "THROTTLED", "RUNNING"], armed)}`)
  );
}
