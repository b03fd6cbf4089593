/** Client library of nmid: `connect(address)`, then `register` and `subscribe`. */
export {
  type BrokerClient,
  type ConnectOptions,
  connect,
  type DeregisterOptions,
  type StreamOptions,
  type SubscribeOptions,
  type Subscription,
} from "./client.js";
export { MalformedMessageError, NmiError, RpcError } from "./errors.js";
export type { LatencyHistogram } from "./latency.js";
export type * from "./messages.js";
export type { TlsOptions } from "./tls.js";
