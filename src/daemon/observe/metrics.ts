/** Prometheus metrics, computed at scrape time from a snapshot. Nothing here is touched between scrapes. */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import { monotonicClock, type NsClock } from "../clock.js";
import { COUNTERS } from "./counters.js";
import type { Family, Labels, View } from "./family.js";
import { GAUGES, HISTOGRAMS } from "./gauges.js";
import { EventSeries, HandlerSeries } from "./series.js";
import type { HistogramSnapshot, Snapshot } from "./snapshot.js";

export interface Metrics {
  /** Value of the content-type header that belongs to render()'s text. */
  readonly contentType: string;
  /** Takes one snapshot and renders it in Prometheus' text format, with the process's own metrics. */
  render(): Promise<string>;
}

/** The default timer for event-loop delay wakes an idle daemon 100 times a second; this is the longest there is. */
const EVENT_LOOP_TIMER_MS = 2 ** 31 - 1;

/** Gauges named like counters, which promtool objects to, and what the timer above no longer measures. */
const UNWANTED = /^nodejs_active_.*_total$|^nodejs_eventloop_lag_(min|max|mean|stddev|p\d+)_seconds$/;

/** Metrics in a registry of their own. `snapshot` is called once for each render(). */
export function createMetrics(snapshot: () => Snapshot, now: NsClock = monotonicClock()): Metrics {
  const registry = new Registry();
  const eventSeries = new EventSeries(now);
  const handlerSeries = new HandlerSeries(now);
  let view: View | undefined;
  const current = (): View => {
    if (view === undefined) {
      const taken = snapshot();
      view = {
        snapshot: taken,
        events: eventSeries.rows(taken.events),
        handlers: handlerSeries.rows(taken.handlers),
      };
    }
    return view;
  };

  for (const family of COUNTERS) registerCounter(family, current, registry);
  for (const family of GAUGES) registerGauge(family, current, registry);
  for (const family of HISTOGRAMS) new SnapshotHistogram(family, current, registry);
  registerProcessMetrics(registry);

  return {
    contentType: registry.contentType,
    render() {
      // The registry collects from all families before it first awaits, so they share the snapshot of this scrape.
      view = undefined;
      return registry.metrics();
    },
  };
}

function registerCounter(family: Family<number>, current: () => View, registry: Registry): void {
  const { name, help, labelNames } = family;
  const counter = new Counter({
    name,
    help,
    labelNames,
    registers: [registry],
    collect() {
      counter.reset();
      for (const { labels, value } of family.values(current())) counter.inc(labels, value);
    },
  });
}

function registerGauge(family: Family<number>, current: () => View, registry: Registry): void {
  const { name, help, labelNames } = family;
  const gauge = new Gauge({
    name,
    help,
    labelNames,
    registers: [registry],
    collect() {
      gauge.reset();
      for (const { labels, value } of family.values(current())) gauge.set(labels, value);
    },
  });
}

function registerProcessMetrics(registry: Registry): void {
  collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: EVENT_LOOP_TIMER_MS });
  for (const { name } of registry.getMetricsAsArray()) {
    if (UNWANTED.test(name)) registry.removeSingleMetric(name);
  }
}

interface Line {
  readonly metricName: string;
  readonly labels: Labels;
  readonly sharedLabels: Labels;
  readonly value: number;
}

/** A histogram whose buckets were counted elsewhere: prom-client's own can only observe. */
class SnapshotHistogram extends Histogram {
  readonly #family: Family<HistogramSnapshot>;
  readonly #current: () => View;

  constructor(family: Family<HistogramSnapshot>, current: () => View, registry: Registry) {
    const { name, help, labelNames } = family;
    super({ name, help, labelNames, registers: [registry] });
    this.#family = family;
    this.#current = current;
  }

  /** What the registry asks every histogram for (15.1.3, lib/registry.js); prom-client's types leave it out. */
  async getForPromString() {
    const { name, help } = this.#family;
    const values = this.#family.values(this.#current()).flatMap(({ labels, value }) => lines(name, labels, value));
    return { name, help, type: "histogram", values, aggregator: "sum" };
  }
}

/** Cumulative buckets, sum and count. The count is that of the last bucket, so that the two can never disagree. */
function lines(name: string, sharedLabels: Labels, histogram: HistogramSnapshot): Line[] {
  const line = (suffix: string, labels: Labels, value: number): Line => ({
    metricName: `${name}_${suffix}`,
    labels,
    sharedLabels,
    value,
  });
  let cumulative = 0;
  const buckets = histogram.counts.map((count, i) => {
    cumulative += count;
    const bound = histogram.bounds[i];
    return line("bucket", { le: bound === undefined ? "+Inf" : String(bound) }, cumulative);
  });
  return [...buckets, line("sum", {}, histogram.sum), line("count", {}, cumulative)];
}
