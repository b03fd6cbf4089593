/** What a metric family is, and the shapes that families come in. */
import type { EventRow, HandlerRow } from "./series.js";
import type { DispatcherSnapshot, MemoryPart, Snapshot } from "./snapshot.js";

export type Labels = Readonly<Record<string, string>>;

/** One scrape's input. */
export interface View {
  readonly snapshot: Snapshot;
  readonly events: readonly EventRow[];
  readonly handlers: readonly HandlerRow[];
}

export interface Family<Value> {
  readonly name: string;
  readonly help: string;
  readonly labelNames: readonly string[];
  /** All series of one scrape; label sets are unique. */
  values(view: View): readonly Series<Value>[];
}

export interface Series<Value> {
  readonly labels: Labels;
  readonly value: Value;
}

export function total<Value>(name: string, help: string, value: (snapshot: Snapshot) => Value): Family<Value> {
  return { name, help, labelNames: [], values: ({ snapshot }) => [{ labels: {}, value: value(snapshot) }] };
}

/** Events for which `value` is undefined have no such series. */
export function perEvent(name: string, help: string, value: (row: EventRow) => number | undefined): Family<number> {
  return {
    name,
    help,
    labelNames: ["event", "sampling"],
    values: ({ events }) =>
      events.flatMap((row) => {
        const v = value(row);
        return v === undefined ? [] : [{ labels: row.labels, value: v }];
      }),
  };
}

export function perHandler(name: string, help: string, value: (row: HandlerRow) => number): Family<number> {
  return {
    name,
    help,
    labelNames: ["name"],
    values: ({ handlers }) => handlers.map((row) => ({ labels: row.labels, value: value(row) })),
  };
}

export function perDispatcher(name: string, help: string, value: (d: DispatcherSnapshot) => number): Family<number> {
  return {
    name,
    help,
    labelNames: ["dispatcher"],
    values: ({ snapshot }) =>
      snapshot.dispatchers.map((d) => ({ labels: { dispatcher: String(d.index) }, value: value(d) })),
  };
}

export function memory(name: string, help: string, value: (part: MemoryPart) => number): Family<number> {
  return {
    name,
    help,
    labelNames: ["part"],
    values: ({ snapshot }) =>
      (["segments", "outboxes", "streams"] as const).map((part) => ({
        labels: { part },
        value: value(snapshot.memory[part]),
      })),
  };
}

/** A series for each key of what `values` gives. */
export function perKey(
  name: string,
  help: string,
  label: string,
  values: (snapshot: Snapshot) => Readonly<Record<string, number>>,
): Family<number> {
  return {
    name,
    help,
    labelNames: [label],
    values: ({ snapshot }) =>
      Object.entries(values(snapshot)).map(([key, value]) => ({ labels: { [label]: key }, value })),
  };
}

/** One series, always 1, whose labels are what it tells. */
export function info(
  name: string,
  help: string,
  labelNames: readonly string[],
  labels: (snapshot: Snapshot) => Labels,
): Family<number> {
  return { name, help, labelNames, values: ({ snapshot }) => [{ labels: labels(snapshot), value: 1 }] };
}
