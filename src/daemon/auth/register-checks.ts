/** What the policy says of a Register request, as it is written and as it was understood. */
import { TYPE } from "../../pmu/abi.js";
import type { ResolvedEvent, Source } from "../../pmu/source.js";
import type { Held } from "../broker/handler.js";
import type { HandlerSpec, RegisterRequestMessage } from "../broker/request.js";
import type { Access } from "./access.js";
import { matchesPattern, type Visibility } from "./rights.js";

const NS_PER_SECOND = 1_000_000_000;
/** Fields that hold, or may hold, addresses of the kernel or of memory in places that nobody can tell. */
const KERNEL_FIELDS = ["RAW", "REGS_INTR", "PHYS_ADDR"];

/** Before anything is asked of the kernel. Returns what the peer may see. */
export function checkRequest(
  access: Access,
  request: RegisterRequestMessage,
  source: Pick<Source, "kind" | "defaultEvent">,
): Visibility {
  const { rights, visibility } = access;
  if (!rights.register) access.deny("Register: registering handlers is not allowed");
  if (visibility === null) {
    access.deny("Register: only samples of the peer's own processes are allowed, and it has none on this machine");
  }
  checkEvents(access, request, source);
  if (request.exclusive && !rights.exclusive) {
    access.deny("exclusive: keeping counters from others is not allowed: leave it out");
  }
  for (const [i, field] of request.fields.entries()) checkField(access, visibility, `fields[${i}]`, field);
  if (visibility.owner === null) return visibility;
  if (request.context_switches) {
    access.deny("context_switches: they tell of others' processes, and only the peer's own are allowed: leave it out");
  }
  if (source.kind !== "perf") {
    access.deny(
      `Register: samples of a ${source.kind} source belong to nobody on this machine, and only those of some users are allowed`,
    );
  }
  return visibility;
}

function checkEvents(
  access: Access,
  { events }: RegisterRequestMessage,
  { defaultEvent }: Pick<Source, "defaultEvent">,
): void {
  const { rights } = access;
  const texts = events.length === 0 ? [""] : events.map(({ event }) => event.trim());
  for (const [i, text] of texts.entries()) {
    const meant = text === "" ? defaultEvent : text;
    // As it is written: what it is called in the end a term of it may say (`name=`).
    if (rights.events.some((pattern) => matchesPattern(pattern, meant))) continue;
    access.deny(`events[${i}].event: "${meant}" is not allowed: ${rights.events.join(", ") || "none"} is`);
  }
}

function checkField(access: Access, { kernelAddresses, owner }: Visibility, where: string, field: string): void {
  if (!kernelAddresses && KERNEL_FIELDS.includes(field)) {
    access.deny(`${where}: ${field} may hold kernel addresses, which are not allowed: leave it out`);
  }
  if (field === "AUX" && (owner !== null || !kernelAddresses)) {
    access.deny(`${where}: AUX traces everything that a CPU runs, and not all of that is allowed: leave it out`);
  }
  if (field === "READ" && owner !== null) {
    access.deny(
      `${where}: READ tells what a whole CPU has counted, and only the peer's own processes are allowed: leave it out`,
    );
  }
}

/** What only shows when the events are resolved and the defaults filled in. */
export function checkSpec(access: Access, spec: HandlerSpec, held: Held): void {
  const { rights, visibility } = access;
  spec.events.forEach((event, i) => {
    const where = `events[${spec.requestIndexes[i]}]`;
    if (rights.rateMaxHz !== null) checkRate(access, event, where, rights.rateMaxHz);
    if (!rights.kernelAddresses && event.type === TYPE.BREAKPOINT && BigInt.asIntN(64, event.config1) < 0n) {
      access.deny(`${where}.event: a breakpoint in the kernel tells kernel addresses, which are not allowed`);
    }
    if (event.sampleRead && visibility?.owner !== null) {
      access.deny(
        `${where}.event: a group that is read (:S) tells what a whole CPU has counted, and only the peer's own processes are allowed`,
      );
    }
  });
  const { handlersMax, queueMaxBytes } = rights;
  if (handlersMax !== null && held.handlers >= handlersMax) {
    access.deny(
      `name: ${held.handlers} handlers of ${access.principal} are registered, and ${handlersMax} are allowed: deregister one`,
      "RESOURCE_EXHAUSTED",
    );
  }
  if (queueMaxBytes !== null && held.queueBytes + spec.queueMaxBytes > queueMaxBytes) {
    access.deny(
      `queue.max_bytes: ${spec.queueMaxBytes} beside the ${held.queueBytes} that handlers of ${access.principal} have, and ${queueMaxBytes} are allowed together: ask for less, or deregister one`,
      "RESOURCE_EXHAUSTED",
    );
  }
}

function checkRate(
  access: Access,
  { name, rate, periodUnit, hasAux }: ResolvedEvent,
  where: string,
  maxHz: number,
): void {
  if (hasAux === true) return;
  if (rate.kind === "frequency") {
    if (rate.hz > maxHz) access.deny(`${where}.frequency_hz: ${rate.hz} is not allowed: at most ${maxHz} is`);
    return;
  }
  if (rate.kind === "period" && periodUnit === "ns") {
    const leastNs = Math.ceil(NS_PER_SECOND / maxHz);
    if (rate.period < leastNs) access.deny(`${where}.period: ${rate.period} ns is not allowed: at least ${leastNs} is`);
    return;
  }
  // How often that comes nobody knows before.
  access.deny(`${where}.period: ${name} has no bound in samples a second so: give frequency_hz, of ${maxHz} at most`);
}
