/** The broker's values as messages of proto/nmi.proto. */
import type { ResolvedEvent } from "../../pmu/source.js";
import type { ResolvedEventMessage } from "../grpc/proto.js";

export function resolvedEventMessage(event: ResolvedEvent): ResolvedEventMessage {
  return {
    name: event.name,
    type: event.type,
    config: Number(event.config),
    frequency_hz: event.rate.kind === "frequency" ? event.rate.hz : 0,
    period: event.rate.kind === "period" ? event.rate.period : 0,
    period_unit: event.periodUnit,
  };
}
