/** AUX data as text: a line or a JSON object for each piece. */
import type { AuxData, ResolvedEvent } from "../typescript/index.js";
import { printable } from "./output.js";
import { formatTime } from "./samples.js";

/** Time, CPU, thread, event, where the piece is in the area, and how long: the bytes themselves are for programs. */
export function formatAux(piece: AuxData, event: ResolvedEvent | undefined): string {
  const { time, cpu, tid, eventIndex, offset, data, truncated } = piece;
  const name = printable(event?.name ?? `#${eventIndex}`);
  const gap = truncated ? " TRUNCATED: the area was full" : "";
  return `${formatTime(time)} [${String(cpu).padStart(3, "0")}] ${tid} ${name} AUX ${offset}+${data.length}${gap}\n`;
}

/** 64-bit numbers are decimal strings, the bytes base64. */
export function formatAuxJson(piece: AuxData, event: ResolvedEvent | undefined): string {
  const { kind, eventIndex, cpu, tid, offset, flags, time, data, truncated } = piece;
  const { name = "" } = event ?? {};
  const numbers = { time: String(time), cpu, tid, offset: String(offset), flags: String(flags) };
  return `${JSON.stringify({ kind, event: name, eventIndex, ...numbers, truncated, data: Buffer.from(data).toString("base64") })}\n`;
}
