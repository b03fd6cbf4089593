/** The broker's values as messages of proto/nmi.proto. */
import { SAMPLE } from "../../pmu/abi.js";
import type { RecordFormat, ResolvedEvent } from "../../pmu/source.js";
import type { ResolvedEventMessage } from "../grpc/proto.js";
import type { SampleFields } from "./fields.js";
import type { Handler } from "./handler.js";

/** As the wire numbers them: each group's members follow their leader. */
export function resolvedEventMessages({ spec, armed, places }: Handler): ResolvedEventMessage[] {
  return spec.events.flatMap((event, i) =>
    [event, ...event.members].map((each, member) =>
      resolvedEventMessage(each, places[i], member === 0, spec.fields, armed[i].open.formats[0]),
    ),
  );
}

/** Where each of the events that sample stands among all that the wire tells of. */
export function wirePlaces(events: readonly ResolvedEvent[]): number[] {
  let next = 0;
  return events.map(({ members }) => {
    const place = next;
    next += 1 + members.length;
    return place;
  });
}

/** How many events the wire tells of. */
export function wireCount(events: readonly ResolvedEvent[]): number {
  return events.reduce((count, { members }) => count + 1 + members.length, 0);
}

/** `format` is that of the samples, its leader's for a member, which may carry more than the handler asked for. */
function resolvedEventMessage(
  event: ResolvedEvent,
  leaderIndex: number,
  samples: boolean,
  { sampleType }: SampleFields,
  format: RecordFormat,
): ResolvedEventMessage {
  const { rate } = event;
  const asked = (bit: number, value: bigint | number | undefined): string =>
    (samples && (sampleType & bit) !== 0 ? (value ?? 0) : 0).toString();
  return {
    name: event.name,
    type: event.type,
    config: event.config.toString(),
    config1: event.config1.toString(),
    config2: event.config2.toString(),
    config3: event.config3.toString(),
    format: Buffer.from(event.format),
    frequency_hz: samples && rate.kind === "frequency" ? rate.hz : 0,
    period: samples && rate.kind === "period" ? rate.period : 0,
    period_unit: event.periodUnit,
    leader_index: leaderIndex,
    sample_regs_user: asked(SAMPLE.REGS_USER, format.sampleRegsUser),
    sample_regs_intr: asked(SAMPLE.REGS_INTR, format.sampleRegsIntr),
    read_format: asked(SAMPLE.READ, format.readFormat),
    branch_sample_type: asked(SAMPLE.BRANCH_STACK, format.branchSampleType),
    sample_stack_user: Number(asked(SAMPLE.STACK_USER, format.sampleStackUser)),
    exclude_user: event.excludeUser,
    exclude_kernel: event.excludeKernel,
    exclude_hv: event.excludeHv,
    precise_ip: event.preciseIp,
    bp_type: event.bpType,
    sample_type: (samples ? format.sampleType & told(sampleType) : 0).toString(),
  };
}

const ALWAYS = SAMPLE.IP | SAMPLE.TID | SAMPLE.TIME | SAMPLE.CPU | SAMPLE.PERIOD;

/** What a handler is told of that asked for `sampleType`; weights come in two kinds. */
function told(sampleType: number): number {
  return ALWAYS | sampleType | ((sampleType & SAMPLE.WEIGHT) !== 0 ? SAMPLE.WEIGHT_STRUCT : 0);
}
