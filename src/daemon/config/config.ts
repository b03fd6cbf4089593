/** The configuration as the daemon uses it: parsed, checked, frozen. */
import type { ListenAddress, TcpAddress } from "./address.js";
import type { DispatcherCpus } from "./dispatcher-cpus.js";
import type { LogLevel, OverloadPolicy, RestartPolicy } from "./schema.js";
import type { SourceSpec } from "./source-spec.js";

export interface DaemonLimits {
  /** All that consumers can make the daemon hold: samples that wait, outboxes, and what waits in the transport. */
  readonly memoryMaxBytes: number;
  /** The most a handler may ask for its queue, and what it gets when it does not ask. */
  readonly queueMaxBytes: number;
  readonly queueDefaultBytes: number;
  /** What a handler that does not ask gets while there are few streams, and what that grows to with their number. */
  readonly flushIntervalDefaultMs: number;
  readonly flushIntervalDefaultMaxMs: number;
  readonly flushIntervalMaxMs: number;
  /** A dispatch that takes longer is reported. */
  readonly slowDispatchUs: number;
  /** No rate is lowered below, and lowered ones are raised again when all was well for so long. */
  readonly overloadRateFloorHz: number;
  readonly overloadRaiseAfterMs: number;
  readonly leaseDefaultMs: number;
  readonly leaseMaxMs: number;
  readonly deregisterTimeoutDefaultMs: number;
  /** Of a message the daemon receives. */
  readonly messageMaxBytes: number;
  readonly filterEntriesMax: number;
  readonly eventsPerHandlerMax: number;
}

export interface DaemonConfig {
  /** At least one. Paths are absolute; TCP is loopback. */
  readonly listen: readonly ListenAddress[];
  /** null: no metrics are served. */
  readonly metrics: TcpAddress | null;
  /** Absolute. */
  readonly runtimeDir: string;
  /** A replay's file is absolute. */
  readonly source: SourceSpec;
  readonly dispatchers: number;
  /** As many lists as there are dispatchers, where it is lists. */
  readonly dispatcherCpus: DispatcherCpus;
  /** Slots in the handler table. */
  readonly capacity: number;
  readonly logLevel: LogLevel;
  readonly overload: OverloadPolicy;
  readonly restart: RestartPolicy;
  /** Data area of each CPU's ring: a power of two. */
  readonly ringKib: number;
  readonly limits: DaemonLimits;
}
