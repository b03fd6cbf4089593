/** For tests: task records in the kernel's format, and nmi.v1.Tasks as protobufjs decodes it. */
import type { MessageTypeDefinition } from "@grpc/proto-loader";
import { packageDefinition } from "../grpc/proto.js";

export interface TaskRecordMessage {
  readonly time: number;
  readonly pid: number;
  readonly tid: number;
  readonly cpu: number;
  readonly misc: number;
  /** Which of the following is set. */
  readonly record: string;
  readonly comm?: { readonly comm: string; readonly exec: boolean; readonly pid: number; readonly tid: number };
  readonly mmap?: { readonly pid: number; readonly len: number; readonly filename: string };
  readonly fork?: { readonly pid: number };
  readonly text_poke?: { readonly old: string };
}

export interface TasksMessage {
  readonly snapshot: boolean;
  readonly snapshot_complete: boolean;
  readonly records: readonly TaskRecordMessage[];
}

/** Bytes are given as hexadecimal text. */
export function decodeTasks(bytes: Uint8Array): TasksMessage {
  const definition = packageDefinition["nmi.v1.Tasks"] as unknown as MessageTypeDefinition<TasksMessage, TasksMessage>;
  return hexed(definition.deserialize(Buffer.from(bytes))) as TasksMessage;
}

function hexed(value: unknown): unknown {
  if (value instanceof Uint8Array) return Buffer.from(value).toString("hex");
  if (Array.isArray(value)) return value.map(hexed);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, hexed(inner)]));
}

/** `words` behind the header, then text that ends in a 0, padded to 8 bytes; `trailer` is in words of 64 bits. */
export function taskRecord(
  type: number,
  misc: number,
  words: readonly number[],
  text: string | null,
  trailer: readonly number[],
): Uint32Array {
  const body = [...words];
  if (text !== null) {
    const encoded = Buffer.from(text);
    const padded = Buffer.alloc(Math.ceil((words.length * 4 + encoded.length + 1) / 8) * 8 - words.length * 4);
    encoded.copy(padded);
    for (let at = 0; at < padded.length; at += 4) body.push(padded.readUInt32LE(at));
  }
  if (body.length % 2 !== 0) body.push(0);
  for (const value of trailer) body.push(value >>> 0, Math.floor(value / 2 ** 32));
  return Uint32Array.from([type, misc | ((8 + body.length * 4) << 16), ...body]);
}
