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

/** What clients may do to the daemon's one thread and its file descriptors. A peer is a user of this machine, or an address. */
export interface ConnectionLimits {
  readonly connectionsMax: number;
  readonly connectionsPerPeerMax: number;
  readonly streamsPerConnectionMax: number;
  readonly streamsPerPeerMax: number;
  readonly requestsPerSecondMax: number;
  readonly controlFramesPerSecondMax: number;
  /** Of a connection, averaged over some seconds. */
  readonly receiveBytesPerSecondMax: number;
  readonly handshakeTimeoutMs: number;
  /** Of connections over TCP. */
  readonly keepaliveIntervalMs: number;
  readonly keepaliveTimeoutMs: number;
}

/** Absolute paths of PEM files. */
export interface TlsFiles {
  readonly cert: string;
  readonly key: string;
  /** Who signs the certificates of clients. */
  readonly clientCa: string;
}

export interface DaemonConfig {
  /** At least one. Paths are absolute; TCP is loopback, unless there is `tls` or `insecure` is set. */
  readonly listen: readonly ListenAddress[];
  /** Nobody has said where to listen: sockets that a service manager passes are enough. */
  readonly listenIsDefault: boolean;
  /** Permissions of Unix sockets. */
  readonly socketMode: number;
  /** The group that owns Unix sockets, by name; null: nmid, where there is one, else the daemon's own. */
  readonly socketGroup: string | null;
  /** Every connection over TCP speaks it, and shows a certificate; null: TCP is plain. */
  readonly tls: TlsFiles | null;
  /** Plain TCP may be reached from other machines. */
  readonly insecure: boolean;
  /** null: no metrics are served. */
  readonly metrics: TcpAddress | null;
  /** Absolute path of the file that says who may do what; null: the default policy. */
  readonly policy: string | null;
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
  /** Of the section `limits`, too. */
  readonly connectionLimits: ConnectionLimits;
}
