/** The events of a recording: which of them a request means, and what their samples can be asked for. */
import { BRANCH_SAMPLE, COUNT_SW, SAMPLE, sampleTypeNames, TYPE } from "../abi.js";
import { PmuError } from "../errors.js";
import {
  modifierSuffix,
  nearestName,
  type ParsedEvent,
  parseEventSpec,
  requestedRate,
  splitModifiers,
} from "../event-spec.js";
import { type GroupSyntax, splitGroup } from "../events/group.js";
import { wholeOf } from "../events/piece.js";
import { genericEventByConfig } from "../generic-events.js";
import type { RecordedAttr } from "../perf-data/attr.js";
import type { Recording } from "../perf-data/recording.js";
import {
  type EventCatalog,
  type EventRequest,
  type EventShape,
  PLAIN_ATTR,
  type RecordFormat,
  type ResolvedEvent,
  UNGROUPED,
} from "../source.js";
import { readGroups } from "./read-groups.js";
import type { ReplayProducerData } from "./replay-producer.js";

/** By their places among the recording's attrs. */
export class RecordedEvents {
  /** The default: the first that counts anything. */
  readonly first: RecordedAttr;
  readonly #recording: Recording;
  readonly #auxAttr: number;
  /** Members by leader, as indexes of attrs. */
  readonly #groups: ReadonlyMap<number, readonly number[]>;

  constructor(recording: Recording, { index, aux }: Pick<ReplayProducerData, "index" | "aux">) {
    this.#recording = recording;
    this.#auxAttr = aux.attr;
    this.#groups = readGroups(recording, index);
    this.first = recording.attrs.find((attr) => !isDummy(attr)) ?? (recording.attrs[0] as RecordedAttr);
  }

  /** Groups by the name that asks for them; their members have no samples of their own, and are not listed again. */
  list(): EventCatalog {
    const members = new Set([...this.#groups.values()].flat());
    const events = this.#recording.attrs.flatMap((attr, index) => {
      if (members.has(index)) return [];
      const generic = genericEventByConfig(attr.type, attr.config);
      const pace = attr.isFrequency ? `at ${attr.samplePeriod} Hz` : `every ${attr.samplePeriod} events`;
      const event = {
        name: this.#groupName(index) ?? attr.name,
        aliases: this.#groups.has(index) ? [attr.name] : [],
        type: attr.type,
        config: attr.config,
        description: `${generic?.description ?? "An event of the recording"} (recorded ${pace})`,
        group: generic?.group ?? "recording",
        canSample: true,
        reason: "",
      };
      return [event];
    });
    return { events, pmus: [] };
  }

  /** The leader of a group that was read with its samples brings its members, asked for by itself or as `{a,b}:S`. */
  resolve(request: EventRequest): readonly ResolvedEvent[] {
    const text = request.event === "" ? this.first.name : request.event;
    const group = splitGroup(wholeOf(text));
    const indexes = group === null ? this.#findAttrs(text) : [this.#findGroup(group)];
    return indexes.map((index) => {
      this.#checkBranches(index, request.branchSampleType ?? 0);
      const leader = this.#resolveAttr(index, request);
      const members = (this.#groups.get(index) ?? []).map((member) => this.#resolveAttr(member, request));
      return { ...leader, members, sampleRead: members.length > 0 };
    });
  }

  #checkBranches(index: number, asked: number): void {
    const { name, branchSampleType } = this.#recording.attrs[index] as RecordedAttr;
    const recorded = Number(branchSampleType) & ~(BRANCH_SAMPLE.HW_INDEX | BRANCH_SAMPLE.COUNTERS);
    if (asked === 0 || asked === recorded) return;
    throw new PmuError(
      "SHAPE_UNSUPPORTED",
      `branch_sample_type: ${name} was recorded with 0x${recorded.toString(16)}: leave it out, or record with what it asks for`,
    );
  }

  #groupName(leader: number): string | null {
    const members = this.#groups.get(leader);
    if (members === undefined) return null;
    return `{${[leader, ...members].map((index) => this.#recording.attrs[index].name).join(",")}}:S`;
  }

  #findGroup({ whole, members, modifiers }: GroupSyntax): number {
    const [leader, ...others] = members.map(({ text }) => this.#findAttrs(text)[0]);
    const recorded = this.#groups.get(leader) ?? [];
    const isSame = recorded.length === others.length && recorded.every((attr, i) => attr === others[i]);
    if (isSame && others.length > 0 && modifiers?.text === "S") return leader;
    const groups = [...this.#groups.keys()].map((first) => this.#groupName(first)).join(", ");
    const holds = groups === "" ? "no group whose leader's samples carry what its members count" : groups;
    throw new PmuError(
      "EVENT_UNKNOWN",
      `event ${JSON.stringify(whole.text)} was not recorded: name one of the recording's groups or its events one by one; the recording holds ${holds}`,
    );
  }

  #resolveAttr(index: number, request: EventRequest): ResolvedEvent {
    const attr = this.#recording.attrs[index] as RecordedAttr;
    const { name, type, config, config1, config2, config3, bpType } = attr;
    const { excludeUser, excludeKernel, excludeHv, preciseIp } = attr;
    return {
      ...PLAIN_ATTR,
      ...UNGROUPED,
      ...{ name, type, config, config1, config2, config3, bpType, excludeUser, excludeKernel, excludeHv, preciseIp },
      format: this.#tracepointFormat(attr),
      key: `${index}/${name}`,
      rate: requestedRate(request) ?? { kind: "all" },
      periodUnit: isClock(attr) ? "ns" : "events",
      hasAux: index === this.#auxAttr,
    };
  }

  #tracepointFormat({ type, config }: RecordedAttr): string {
    if (type !== TYPE.TRACEPOINT) return "";
    const { TRACING_DATA } = this.#recording.features;
    return TRACING_DATA?.tracepoints.find(({ id }) => BigInt(id) === config)?.text ?? "";
  }

  /** By name as recorded, which several may share; else by base name or by type and config, if the modifiers ask for no less than was recorded. */
  #findAttrs(text: string): readonly number[] {
    const { attrs } = this.#recording;
    const exact = attrs.flatMap(({ name }, index) => (name === text ? [index] : []));
    if (exact.length > 0) return exact;
    const { base, modifiers } = splitModifiers(text);
    const generic = parsedOrNull(text);
    const related = attrs.flatMap((attr, index) => {
      const sameName = splitModifiers(attr.name).base === base;
      const sameEvent = generic !== null && generic.type === attr.type && generic.config === attr.config;
      return sameName || sameEvent ? [index] : [];
    });
    const suits = related.find(
      (index) => modifiers === null || (generic !== null && sameLevels(generic, attrs[index] as RecordedAttr)),
    );
    if (suits !== undefined) return [suits];
    const names = attrs.map(({ name }) => name);
    const holds = `the recording holds ${names.join(", ")}`;
    if (related.length > 0) {
      const why =
        "was recorded with other modifiers: leave them out, and use filter.exclude_user or filter.exclude_kernel";
      throw new PmuError("EVENT_UNKNOWN", `event ${JSON.stringify(text)} ${why}; ${holds}`);
    }
    const nearest = nearestName(text, names);
    const hint = nearest === null ? "" : `did you mean ${JSON.stringify(nearest)}? `;
    throw new PmuError("EVENT_UNKNOWN", `event ${JSON.stringify(text)} was not recorded: ${hint}${holds}`);
  }
}

/** The recording has no more than it has. Throws PmuError SHAPE_UNSUPPORTED. */
export function checkRecordedShape(attr: RecordedAttr, shape: EventShape): void {
  const { name, branchSampleType } = attr;
  const isStruct = (attr.sampleType & SAMPLE.WEIGHT_STRUCT) !== 0;
  const sampleType = attr.sampleType | (isStruct ? SAMPLE.WEIGHT : 0);
  if ((shape.sampleType & ~sampleType & SAMPLE.CALLCHAIN) !== 0) {
    throw new PmuError(
      "SHAPE_UNSUPPORTED",
      `fields[]: ${name} was recorded without callchains: leave out CALLCHAIN, or record with -g`,
    );
  }
  if ((shape.sampleType & ~sampleType & SAMPLE.CGROUP) !== 0) {
    throw new PmuError(
      "SHAPE_UNSUPPORTED",
      `filter.cgroups: ${name} was recorded without cgroups: leave it and CGROUP out, or record with --all-cgroups`,
    );
  }
  const missing = sampleTypeNames(shape.sampleType & ~sampleType);
  if (shape.branchCounters && (Number(branchSampleType) & BRANCH_SAMPLE.COUNTERS) === 0)
    missing.push("BRANCH_COUNTERS");
  if (missing.length > 0) {
    throw new PmuError(
      "SHAPE_UNSUPPORTED",
      `fields[]: ${name} was recorded without ${missing.join(", ")}: leave it out, or record with it`,
    );
  }
}

/** How records of the event are to be read. */
export function formatOf(attr: RecordedAttr): RecordFormat {
  return {
    // Samples that name no event are all of one, whatever ids the file lists for it.
    ids: (attr.sampleType & (SAMPLE.ID | SAMPLE.IDENTIFIER)) === 0 ? [] : attr.ids,
    sampleType: attr.sampleType,
    sampleIdAll: attr.sampleIdAll,
    // perf, too, takes the attr's where the records have none.
    fixedPeriod: (attr.sampleType & SAMPLE.PERIOD) === 0 ? attr.samplePeriod : 0,
    readFormat: attr.readFormat,
    branchSampleType: Number(attr.branchSampleType),
    sampleRegsUser: attr.sampleRegsUser,
    sampleRegsIntr: attr.sampleRegsIntr,
    sampleStackUser: attr.sampleStackUser,
  };
}

function isDummy({ type, config }: RecordedAttr): boolean {
  return type === TYPE.SOFTWARE && config === BigInt(COUNT_SW.DUMMY);
}

function isClock({ type, config }: RecordedAttr): boolean {
  return type === TYPE.SOFTWARE && (config === BigInt(COUNT_SW.CPU_CLOCK) || config === BigInt(COUNT_SW.TASK_CLOCK));
}

function parsedOrNull(text: string): ParsedEvent | null {
  try {
    return parseEventSpec(text);
  } catch (error) {
    if (error instanceof PmuError) return null;
    throw error;
  }
}

type Levels = Pick<RecordedAttr, "excludeUser" | "excludeKernel" | "excludeHv">;

function sameLevels(asked: Levels, recorded: Levels): boolean {
  const levels = ({ excludeUser, excludeKernel, excludeHv }: Levels): string =>
    modifierSuffix({ excludeUser, excludeKernel, excludeHv });
  return levels(asked) === levels(recorded);
}
