/** A client made of proto/nmi.proto alone: messages as protobufjs decodes them, names as in the file. */

import type { TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { type ClientReadableStream, credentials, loadPackageDefinition, type ServiceError } from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

const PROTO_FILE = fileURLToPath(new URL("../../../proto/nmi.proto", import.meta.url));

type Columns =
  | "time"
  | "ip"
  | "pid"
  | "cpu"
  | "callchain"
  | "callchain_length"
  | "addr"
  | "weight"
  | "data_src"
  | "cgroup"
  | "raw"
  | "raw_length"
  | "branch_stack"
  | "regs_user"
  | "regs_user_abi"
  | "stack_user"
  | "stack_user_length"
  | "transaction"
  | "phys_addr"
  | "data_page_size"
  | "code_page_size"
  | "regs_intr"
  | "regs_intr_abi"
  | "read"
  | "read_length"
  | "cpumode";

export type RawSamples = Readonly<Record<Columns, readonly number[]>>;

export interface RawTaskRecord {
  readonly time: number;
  readonly record: string;
  readonly comm?: { readonly comm: string; readonly exec: boolean; readonly pid: number; readonly tid: number };
  readonly mmap?: { readonly pid: number; readonly addr: number; readonly len: number; readonly filename: string };
}

export interface RawAuxData {
  readonly event_index: number;
  readonly cpu: number;
  readonly offset: number;
  readonly time: number;
  readonly truncated: boolean;
  readonly data: Buffer;
}

export interface RawDelivery {
  readonly samples?: RawSamples;
  readonly tasks?: {
    readonly snapshot: boolean;
    readonly snapshot_complete: boolean;
    readonly records: readonly RawTaskRecord[];
  };
  readonly loss?: { readonly count: number; readonly tasks: number; readonly aux_bytes: number };
  readonly aux?: RawAuxData;
  readonly end?: { readonly matched: number; readonly delivered: number; readonly reason: string };
}

export interface RawRegistered {
  readonly handler_id: number;
  readonly events: readonly {
    readonly sample_regs_user: number;
    readonly sample_regs_intr: number;
    readonly read_format: number;
    readonly sample_stack_user: number;
  }[];
}

export interface RawClient {
  register(request: Record<string, unknown>): Promise<RawRegistered>;
  /** Ends the stream when the loop over it is left. */
  subscribe(handlerId: number): AsyncIterable<RawDelivery>;
  status(): Promise<{
    readonly totals: {
      readonly task_records: number;
      readonly task_records_lost: number;
      readonly aux_bytes: number;
      readonly aux_bytes_delivered: number;
      readonly aux_bytes_lost: number;
    };
  }>;
}

type Unary = (request: unknown, done: (error: ServiceError | null, answer: unknown) => void) => void;
interface Stub {
  Register: Unary;
  GetStatus: Unary;
  Subscribe(request: unknown): ClientReadableStream<RawDelivery>;
  close(): void;
}

/** Closed when the test ends. */
export function connectRaw(t: TestContext, address: string): RawClient {
  const definition = loadSync(PROTO_FILE, {
    longs: Number,
    enums: String,
    defaults: true,
    oneofs: true,
    keepCase: true,
  });
  const { nmi } = loadPackageDefinition(definition) as unknown as {
    nmi: { v1: { Broker: new (address: string, of: ReturnType<typeof credentials.createInsecure>) => Stub } };
  };
  const stub = new nmi.v1.Broker(address, credentials.createInsecure());
  t.after(() => stub.close());
  const call = (method: "Register" | "GetStatus", request: unknown): Promise<never> =>
    new Promise((resolve, reject) => {
      stub[method](request, (error, answer) => (error === null ? resolve(answer as never) : reject(error)));
    });
  return {
    register: (request) => call("Register", request),
    subscribe: (handlerId) => stub.Subscribe({ handler_id: handlerId }) as AsyncIterable<RawDelivery>,
    status: () => call("GetStatus", {}),
  };
}
