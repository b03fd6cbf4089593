/** The event parser: first byte the machine, the rest a specification; and the parsers of what tracefs and names hold. */
import fc from "fast-check";
import { PmuError } from "../../src/pmu/errors.js";
import type { ParsedEvent } from "../../src/pmu/event-spec.js";
import { hostOf, MACHINES } from "../../src/pmu/events/machines.test-support.js";
import { type EventHost, parseEventSpec, resolveEventSpec, splitModifiers } from "../../src/pmu/events/resolve.js";
import { parseTracepointFormat } from "../../src/pmu/perf-data/tracing-data.js";
import { holds, type Target } from "./target.js";

const HOSTS = MACHINES.map((name) => hostOf(name));
const CODES = ["EVENT_SYNTAX", "EVENT_UNKNOWN", "EVENT_UNSUPPORTED", "PERMISSION"];
/** Of a message: names are shortened, and what a machine has is listed. */
const MESSAGE_CHARS_MAX = 8192;

function run(input: Uint8Array): void {
  const text = new TextDecoder().decode(input.subarray(1));
  const selector = input[0] ?? 0;
  if (selector === 255) {
    runTracepointFormat(text);
    return;
  }
  const host = HOSTS[selector % (HOSTS.length + 1)];
  const events = resolve(text, host);
  splitModifiers(text);
  for (const event of events ?? []) {
    checkEvent(event, host);
    // Of a group's members the leader has the modifiers; `name=` calls an event anything.
    if (event.members.length === 0 && !text.includes("{") && !text.includes("name=")) checkCanonical(event, host);
  }
}

/** Null where it is refused as it should be. */
function resolve(text: string, host: EventHost | undefined): readonly ParsedEvent[] | null {
  try {
    return host === undefined ? [parseEventSpec(text)] : resolveEventSpec(text, host);
  } catch (error) {
    if (!(error instanceof PmuError)) throw error;
    const { code, message } = error;
    holds(CODES.includes(code), () => `refused with ${code}: ${message}`);
    const column = Number(/, column (\d+): /.exec(message)?.[1]);
    holds(column >= 1 && column <= text.length + 1, () => `column ${column} of ${text.length}: ${message}`);
    holds(message.length <= MESSAGE_CHARS_MAX, () => `a message of ${message.length} characters`);
    return null;
  }
}

const is64 = (value: bigint): boolean => value >= 0n && value < 1n << 64n;

function checkEvent(event: ParsedEvent, host: EventHost | undefined): void {
  const { name, config, config1, config2, config3, period, frequencyHz, members, preciseIp } = event;
  holds(name !== "", () => "an event without a name");
  holds([config, config1, config2, config3].every(is64), () => `${name}: a config beyond 64 bits`);
  holds(preciseIp >= 0 && preciseIp <= 3, () => `${name}: precise_ip ${preciseIp}`);
  for (const number of [period, frequencyHz]) {
    holds(number === null || (Number.isSafeInteger(number) && number > 0), () => `${name}: rate ${number}`);
  }
  for (const member of members) {
    holds(member.members.length === 0 && !member.pinned, () => `${name}: a member that leads`);
    checkEvent(member, host);
  }
}

/** Names that say what they mean: of a generic event, a raw one, a breakpoint. */
const CANONICAL =
  /^(cpu-clock|task-clock|cycles|instructions|page-faults|r[0-9a-f]+|mem:0x[0-9a-f]+\/\d:[rwx]+)(:[a-zA-Z]+)?$/;

function checkCanonical(event: ParsedEvent, host: EventHost | undefined): void {
  if (!CANONICAL.test(event.name)) return;
  const again = resolve(event.name, host)?.find(({ pmu, type }) => pmu === event.pmu || type === event.type);
  holds(again !== undefined, () => `${event.name} is refused`);
  const words = ({ type, config, config1, excludeUser, excludeKernel, excludeHv, pinned }: ParsedEvent): unknown[] => [
    ...[type, config, config1, excludeUser, excludeKernel, excludeHv, pinned],
  ];
  holds(
    again.name === event.name && String(words(again)) === String(words(event)),
    () => `${event.name}: ${again.name}`,
  );
}

function runTracepointFormat(text: string): void {
  const format = parseTracepointFormat("s", text);
  for (const { name, offset, size, arrayLength } of format?.fields ?? []) {
    holds(name !== "" && offset >= 0 && size >= 0, () => `field ${name} at ${offset}, ${size} bytes`);
    holds(arrayLength === null || arrayLength >= 0, () => `field ${name}: ${arrayLength} elements`);
  }
}

const name = fc.constantFrom(
  ...["cycles", "instructions", "cpu-clock", "page-faults", "L1-dcache-load-misses", "LLC", "branch-misses", "r1a8"],
  ...["rffffffffffffffff", "mem-loads", "sched:sched_switch", "sched:*", "duration_time", "INST_RETIRED:ANY_P", "x"],
);
const modifiers = fc.oneof(
  { weight: 3, arbitrary: fc.constant("") },
  fc.stringMatching(/^:[ukhpPGHIDS]{1,4}$/),
  fc.stringMatching(/^:[ukhpPGHIDSeWbRXz]{0,3}$/),
);
const number = fc.oneof(
  fc.bigInt(0n, (1n << 65n) - 1n).map((value) => `0x${value.toString(16)}`),
  fc.nat(300).map(String),
  fc.constantFrom("18446744073709551615", "18446744073709551616", "0x", "", "?", "😀"),
);
const term = fc.oneof(
  fc
    .tuple(
      fc.constantFrom(
        "event",
        "umask",
        "config",
        "config1",
        "config3",
        "period",
        "freq",
        "ldlat",
        "cmask",
        "call-graph",
      ),
      number,
    )
    .map(([key, value]) => `${key}=${value}`),
  fc.constantFrom(
    "inv",
    "edge",
    "in_tx",
    "r1a8",
    "mem-loads",
    "cycles",
    "name=a b",
    "name='q'",
    "name=ü😀",
    "__proto__",
  ),
);
const pmu = fc.constantFrom(
  "cpu",
  "cpu_core",
  "cpu_atom",
  "uncore_imc",
  "imc",
  "uncore_cha",
  "msr",
  "power",
  "intel_pt",
);
const onPmu = fc
  .tuple(pmu, fc.array(term, { maxLength: 4 }), modifiers)
  .map(([of, terms, letters]) => `${of}/${terms.join(",")}/${letters.slice(1)}`);
const breakpoint = fc
  .tuple(number, fc.constantFrom("", "/1", "/8", "/3"), fc.constantFrom("", ":rw", ":x", ":w", ":rwx"), modifiers)
  .map(([address, length, access, letters]) => `mem:${address}${length}${access}${letters}`);
const single = fc.oneof(
  fc.tuple(name, modifiers).map(([base, letters]) => base + letters),
  onPmu,
  breakpoint,
);
const group = fc
  .tuple(fc.constantFrom("", "", "g:", "😀"), fc.array(single, { minLength: 1, maxLength: 4 }), modifiers)
  .map(([title, members, letters]) => `${title}{${members.join(",")}}${letters}`);
/** What takes long if anything does. */
const long = fc
  .tuple(
    fc.constantFrom("{", "", "cpu/", "mem:"),
    fc.array(fc.tuple(fc.constantFrom(..." /a,:{}*'0="), fc.nat(20_000)), { maxLength: 3 }),
  )
  .map(([start, runs]) => start + runs.map(([letter, times]) => letter.repeat(times)).join(""));
const spec = fc.oneof({ weight: 4, arbitrary: single }, { weight: 2, arbitrary: group }, long);

const declaration = fc
  .array(fc.tuple(fc.constantFrom("char", " ", "a", "[4]", "!", "__data_loc ", "*", "\t"), fc.nat(340)), {
    maxLength: 4,
  })
  .map((runs) =>
    runs
      .map(([word, times]) => word.repeat(times))
      .join("")
      .slice(0, 1024),
  );
const formatFile = fc
  .tuple(fc.array(declaration, { maxLength: 4 }), fc.constantFrom(1, 1, 1, 20))
  .map(([fields, times]) => {
    const lines = fields.map((text) => `\tfield:${text};\toffset:8;\tsize:4;\tsigned:1;`);
    return ["name: e", "ID: 7", "format:", ...Array.from({ length: times }, () => lines).flat(), ""].join("\n");
  });

const encoder = new TextEncoder();
const input = (selector: number, text: string): Uint8Array => Uint8Array.of(selector, ...encoder.encode(text));

export const eventsTarget: Target = {
  run,
  grammar: fc.oneof(
    { weight: 6, arbitrary: fc.tuple(fc.nat(HOSTS.length), spec).map(([selector, text]) => input(selector, text)) },
    formatFile.map((text) => input(255, text)),
  ),
  dictionary: [
    "cpu/",
    "/",
    "{",
    "}",
    ",",
    ":",
    "=",
    "mem:0x",
    "name=",
    "period=",
    "😀",
    "\u0000",
    "*",
    "config=",
    "r",
    ":S",
  ].map((word) => encoder.encode(word)),
  bytesMax: 70_000,
};
