/** The effective configuration as a YAML file that the loader reads back to the same values. */
import { Document } from "yaml";
import { formatListenAddress, formatTcpAddress } from "./address.js";
import type { DaemonConfig } from "./config.js";
import { formatDispatcherCpus } from "./dispatcher-cpus.js";
import type { Key } from "./schema.js";
import { formatSource } from "./source-spec.js";

/** Each value is followed by its origin. */
export function renderConfig(config: DaemonConfig, origin: (key: Key) => string): string {
  const document = new Document({});
  const put = (key: Key, value: string | number | boolean | string[]): void => {
    const node = document.createNode(value, { flow: true });
    node.comment = ` ${origin(key)}`;
    document.setIn(key.split("."), node);
  };
  put("listen", config.listen.map(formatListenAddress));
  put("socket_mode", `0${config.socketMode.toString(8).padStart(3, "0")}`);
  put("socket_group", config.socketGroup ?? "auto");
  put("tls.cert", config.tls?.cert ?? "off");
  put("tls.key", config.tls?.key ?? "off");
  put("tls.client_ca", config.tls?.clientCa ?? "off");
  put("insecure", config.insecure);
  put("metrics", config.metrics === null ? "off" : formatTcpAddress(config.metrics));
  put("policy", config.policy ?? "default");
  put("runtime_dir", config.runtimeDir);
  put("source", formatSource(config.source));
  put("dispatchers", config.dispatchers);
  put("dispatcher_cpus", formatDispatcherCpus(config.dispatcherCpus));
  put("capacity", config.capacity);
  put("log_level", config.logLevel);
  put("overload", config.overload);
  put("restart", config.restart);
  put("ring_kib", config.ringKib);
  put("limits.memory_max_bytes", config.limits.memoryMaxBytes);
  put("limits.queue_max_bytes", config.limits.queueMaxBytes);
  put("limits.queue_default_bytes", config.limits.queueDefaultBytes);
  put("limits.flush_interval_default_ms", config.limits.flushIntervalDefaultMs);
  put("limits.flush_interval_default_max_ms", config.limits.flushIntervalDefaultMaxMs);
  put("limits.flush_interval_max_ms", config.limits.flushIntervalMaxMs);
  put("limits.slow_dispatch_us", config.limits.slowDispatchUs);
  put("limits.overload_rate_floor_hz", config.limits.overloadRateFloorHz);
  put("limits.overload_raise_after_ms", config.limits.overloadRaiseAfterMs);
  put("limits.lease_default_ms", config.limits.leaseDefaultMs);
  put("limits.lease_max_ms", config.limits.leaseMaxMs);
  put("limits.deregister_timeout_default_ms", config.limits.deregisterTimeoutDefaultMs);
  put("limits.message_max_bytes", config.limits.messageMaxBytes);
  put("limits.filter_entries_max", config.limits.filterEntriesMax);
  put("limits.events_per_handler_max", config.limits.eventsPerHandlerMax);
  put("limits.connections_max", config.connectionLimits.connectionsMax);
  put("limits.connections_per_peer_max", config.connectionLimits.connectionsPerPeerMax);
  put("limits.streams_per_connection_max", config.connectionLimits.streamsPerConnectionMax);
  put("limits.streams_per_peer_max", config.connectionLimits.streamsPerPeerMax);
  put("limits.requests_per_second_max", config.connectionLimits.requestsPerSecondMax);
  put("limits.control_frames_per_second_max", config.connectionLimits.controlFramesPerSecondMax);
  put("limits.receive_bytes_per_second_max", config.connectionLimits.receiveBytesPerSecondMax);
  put("limits.handshake_timeout_ms", config.connectionLimits.handshakeTimeoutMs);
  put("limits.keepalive_interval_ms", config.connectionLimits.keepaliveIntervalMs);
  put("limits.keepalive_timeout_ms", config.connectionLimits.keepaliveTimeoutMs);
  return document.toString({ lineWidth: 0, flowCollectionPadding: false });
}
