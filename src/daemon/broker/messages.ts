/** The broker's values as messages of proto/nmi.proto. */
import type { ResolvedEvent } from "../../pmu/source.js";
import type { ResolvedEventMessage } from "../grpc/proto.js";

/** As the wire numbers them: each group's members follow their leader. */
export function resolvedEventMessages(events: readonly ResolvedEvent[]): ResolvedEventMessage[] {
  const places = wirePlaces(events);
  return events.flatMap((event, i) =>
    [event, ...event.members].map((each, member) => resolvedEventMessage(each, places[i], member === 0)),
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

function resolvedEventMessage(event: ResolvedEvent, leaderIndex: number, samples: boolean): ResolvedEventMessage {
  const { rate } = event;
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
  };
}
