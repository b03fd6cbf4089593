/** proto/nmi.proto as the daemon uses it: definitions for the server, and the encoder of the rare stream messages. */
import { fileURLToPath } from "node:url";
import type { MethodDefinition, ServiceDefinition } from "@grpc/grpc-js";
import { loadSync, type PackageDefinition } from "@grpc/proto-loader";

const PROTO_PATH = fileURLToPath(new URL("../../../../proto/nmi.proto", import.meta.url));

/** 64-bit numbers as JavaScript numbers: ids are below 2^45, and counts below 2^53. */
export const packageDefinition: PackageDefinition = loadSync(PROTO_PATH, {
  longs: Number,
  enums: String,
  defaults: true,
  arrays: true,
  oneofs: true,
  keepCase: true,
});

export const brokerService = packageDefinition["nmi.v1.Broker"] as ServiceDefinition;

export interface StartedMessage {
  readonly handler_id: number;
  readonly events: readonly ResolvedEventMessage[];
  readonly next_sequence: number;
  readonly resumed: boolean;
  readonly clock: string;
  readonly source: string;
  readonly fallback: boolean;
  readonly lease_ms: number;
}

export interface ResolvedEventMessage {
  readonly name: string;
  readonly type: number;
  /** Decimal: all 64 bits, which a number has not. */
  readonly config: string;
  readonly config1: string;
  readonly config2: string;
  readonly config3: string;
  readonly frequency_hz: number;
  readonly period: number;
  readonly period_unit: string;
  /** Of a tracepoint. */
  readonly format: Uint8Array;
  /** Decimal: masks of all 64 bits. */
  readonly sample_regs_user: string;
  readonly sample_regs_intr: string;
  readonly read_format: string;
  readonly branch_sample_type: string;
  readonly sample_stack_user: number;
  readonly leader_index: number;
  readonly exclude_user: boolean;
  readonly exclude_kernel: boolean;
  readonly exclude_hv: boolean;
  readonly precise_ip: number;
  readonly bp_type: number;
  /** Decimal. */
  readonly sample_type: string;
}

export interface LossMessage {
  readonly count: number;
  readonly reason: string;
  readonly event_wide: boolean;
  readonly first_time: number;
  readonly last_time: number;
  readonly event_index: number;
  readonly period: number;
  readonly tasks: number;
  readonly aux_bytes: number;
}

export interface EventBooksMessage {
  readonly event_index: number;
  readonly matched: number;
  readonly delivered: number;
  readonly lost: number;
  readonly period_delivered: number;
  readonly period_lost: number;
  readonly period_carried: number;
}

export interface EndMessage {
  readonly matched: number;
  readonly delivered: number;
  readonly lost: number;
  readonly reason: string;
  readonly events: readonly EventBooksMessage[];
  readonly message: string;
}

export type ControlDelivery =
  | { readonly started: StartedMessage }
  | { readonly loss: LossMessage }
  | { readonly end: EndMessage };

const subscribe = brokerService.Subscribe as MethodDefinition<unknown, ControlDelivery>;

/** Everything of a stream but its samples, which are encoded by the dispatchers. */
export function encodeDelivery(message: ControlDelivery): Uint8Array {
  return subscribe.responseSerialize(message);
}
