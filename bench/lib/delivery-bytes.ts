/** What a Delivery holds, told from its bytes without decoding its samples: a reader that counts costs next to nothing. */
import { WIRE_LENGTH_DELIMITED, WireReader } from "../../clients/typescript/wire.js";

/** Field numbers of proto/nmi.proto. */
const DELIVERY_SAMPLES = 2;
const BATCH_PID = 5;
const PID_BYTES = 4;

/** Samples in the message: the length of its pid column. -1 when it is no SampleBatch. */
export function countSamples(message: Uint8Array): number {
  const outer = new WireReader(message);
  let samples = -1;
  while (outer.next()) {
    if (outer.field !== DELIVERY_SAMPLES) {
      outer.skip();
      continue;
    }
    outer.expect(WIRE_LENGTH_DELIMITED);
    const length = outer.uint32();
    const start = outer.take(length);
    const batch = new WireReader(message, start, start + length);
    samples = Math.max(samples, 0);
    while (batch.next()) {
      if (batch.field === BATCH_PID && batch.wireType === WIRE_LENGTH_DELIMITED) {
        const bytes = batch.uint32();
        batch.take(bytes);
        samples += bytes / PID_BYTES;
      } else batch.skip();
    }
  }
  return samples;
}
