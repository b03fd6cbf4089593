/** Contents of a recording's feature sections. */
import type { ResolvedEvent } from "../../typescript/index.js";
import { FEATURE, type Feature } from "./abi.js";
import { RecordBuffer } from "./record-buffer.js";

/** perf writes the length of a text up to this, NULs included. */
const TEXT_ALIGNMENT = 64;

/** What is known of the machine whose samples are recorded. */
export interface HostFacts {
  readonly hostname: string;
  readonly osRelease: string;
  readonly arch: string;
  readonly cpusPresent: number;
  readonly cpusOnline: number;
  readonly cpuDescription: string;
  /** As perf has it: vendor, family, model and stepping. */
  readonly cpuId: string;
  readonly memoryKib: number;
}

function section(id: number, fill: (out: RecordBuffer) => void): Feature {
  const out = new RecordBuffer();
  fill(out);
  return { id, bytes: out.written };
}

function putText(out: RecordBuffer, text: string): void {
  const bytes = Buffer.from(text, "utf8");
  const length = Math.ceil((bytes.length + 1) / TEXT_ALIGNMENT) * TEXT_ALIGNMENT;
  out.u32(length);
  out.put(bytes);
  out.zeros(length - bytes.length);
}

export function hostFeatures(host: HostFacts): readonly Feature[] {
  const texts: readonly (readonly [id: number, text: string])[] = [
    [FEATURE.HOSTNAME, host.hostname],
    [FEATURE.OSRELEASE, host.osRelease],
    [FEATURE.ARCH, host.arch],
    [FEATURE.CPUDESC, host.cpuDescription],
    [FEATURE.CPUID, host.cpuId],
  ];
  return [
    ...texts.filter(([, text]) => text !== "").map(([id, text]) => section(id, (out) => putText(out, text))),
    section(FEATURE.NRCPUS, (out) => {
      out.u32(host.cpusPresent);
      out.u32(host.cpusOnline);
    }),
    section(FEATURE.TOTAL_MEM, (out) => out.u64(host.memoryKib)),
  ];
}

export function versionFeature(version: string): Feature {
  return section(FEATURE.VERSION, (out) => putText(out, version));
}

export function commandLineFeature(args: readonly string[]): Feature {
  return section(FEATURE.CMDLINE, (out) => {
    out.u32(args.length);
    for (const arg of args) putText(out, arg);
  });
}

/** `attrs` are of one size, `ids` the recording's of each event. */
export function eventDescriptionFeature(
  events: readonly ResolvedEvent[],
  attrs: readonly Uint8Array[],
  ids: readonly (readonly number[])[],
): Feature {
  return section(FEATURE.EVENT_DESC, (out) => {
    out.u32(events.length);
    out.u32(attrs[0].length);
    for (const [i, event] of events.entries()) {
      out.put(attrs[i]);
      out.u32(ids[i].length);
      putText(out, event.name);
      for (const id of ids[i]) out.u64(id);
    }
  });
}

/** undefined where there is no group. */
export function groupFeature(events: readonly ResolvedEvent[]): Feature | undefined {
  const groups = events.flatMap((event, i) => {
    const members = events.filter(({ leaderIndex }) => leaderIndex === i).length;
    return event.leaderIndex === i && members > 1 ? [{ leader: i, members }] : [];
  });
  if (groups.length === 0) return undefined;
  return section(FEATURE.GROUP_DESC, (out) => {
    out.u32(groups.length);
    for (const { leader, members } of groups) {
      // What perf writes for a group that has no name of its own.
      putText(out, "{anon_group}");
      out.u32(leader);
      out.u32(members);
    }
  });
}

/** Nanoseconds of the first and the last sample. */
export function sampleTimeFeature(first: bigint, last: bigint): Feature {
  return section(FEATURE.SAMPLE_TIME, (out) => {
    out.u64(first);
    out.u64(last);
  });
}

/** The clock's resolution: both clocks that events can be timed by have one of a nanosecond. clock_getres(2) */
export function clockFeature(): Feature {
  return section(FEATURE.CLOCKID, (out) => out.u64(1));
}

/** One moment in nanoseconds, of the wall clock and of the recording's. */
export function clockDataFeature(clockId: number, wallNs: bigint, clockNs: bigint): Feature {
  return section(FEATURE.CLOCK_DATA, (out) => {
    out.u32(1);
    out.u32(clockId);
    out.u64(wallNs);
    out.u64(clockNs);
  });
}
