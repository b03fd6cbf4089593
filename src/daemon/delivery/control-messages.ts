/** The stream's messages that tell of books and losses, as proto/nmi.proto has them. */
import type { EndMessage, EventBooksMessage, LossMessage } from "../grpc/proto.js";
import type { Books, LossReason } from "./books.js";

/** A loss that is part of the handler's books; times 0 where they are not known. */
export function lossMessage(
  event: number,
  reason: LossReason,
  count: number,
  period: number,
  firstNs: number,
  lastNs: number,
): LossMessage {
  return {
    count,
    reason,
    event_wide: false,
    first_time: firstNs,
    last_time: lastNs,
    event_index: event,
    period,
    tasks: 0,
    aux_bytes: 0,
  };
}

/** Task records that were lost; they are in no books. */
export function tasksLossMessage(reason: LossReason, tasks: number): LossMessage {
  return { ...lossMessage(0, reason, 0, 0, 0, 0), event_wide: true, tasks };
}

/** Bytes of the event's AUX data that were lost; they are in no books. */
export function auxLossMessage(event: number, reason: LossReason, bytes: number): LossMessage {
  return { ...lossMessage(event, reason, 0, 0, 0, 0), event_wide: true, aux_bytes: bytes };
}

export function endMessage(books: Books, reason: string, message = ""): EndMessage {
  return {
    matched: books.matched,
    delivered: books.delivered,
    lost: books.lost,
    reason,
    events: eventBooksMessages(books),
    message,
  };
}

/** nmi.v1.EventBooks, for the stream's end and for Deregister's answer. */
export function eventBooksMessages(books: Books): EventBooksMessage[] {
  return books.events.map((event, event_index) => ({
    event_index,
    matched: event.matched,
    delivered: event.delivered,
    lost: event.lost,
    period_delivered: event.periodDelivered,
    period_lost: event.periodLost,
    period_carried: event.periodCarried,
  }));
}
