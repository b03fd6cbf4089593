/**
 * One client that wants its samples at once, and notes how old they are when the client library yields them.
 * Arguments: ADDRESS EVENT FREQUENCY_HZ CPU WARM_UP_MS DURATION_MS. For each line of input it registers, leaves out the
 * warm-up, notes the age of that CPU's samples, deregisters, and prints a LatencyRound.
 */
import { createInterface } from "node:readline";
import { connect } from "../clients/typescript/index.js";

export interface LatencyRound {
  readonly id: string;
  readonly latenciesNs: readonly number[];
  readonly matched: number;
  readonly delivered: number;
  readonly lost: number;
  /** Of all CPUs, the warm-up's among them. */
  readonly received: number;
}

const [address = "", event = "", frequencyHz = "", cpu = "", warmUpMs = "", durationMs = ""] = process.argv.slice(2);
const wantedCpu = Number(cpu);
const client = connect(address);

async function round(id: string): Promise<LatencyRound> {
  const { handlerId } = await client.register({
    name: `bench-${id}`,
    events: [{ event, frequencyHz: Number(frequencyHz) }],
    queue: { flushIntervalMs: 0 },
  });
  const latenciesNs: number[] = [];
  let received = 0;
  let startNs = 0n;
  let endNs = 0n;
  let leaving = false;
  for await (const delivery of client.subscribe(handlerId)) {
    // CLOCK_MONOTONIC, as the samples' times.
    const nowNs = process.hrtime.bigint();
    if (delivery.kind === "samples") {
      if (startNs === 0n) {
        startNs = nowNs + BigInt(warmUpMs) * 1_000_000n;
        endNs = startNs + BigInt(durationMs) * 1_000_000n;
      }
      received += delivery.length;
      for (let i = 0; i < delivery.length && nowNs >= startNs && !leaving; i++) {
        if (delivery.cpu[i] === wantedCpu) latenciesNs.push(Number(nowNs - delivery.time[i]));
      }
      if (nowNs >= endNs && !leaving) {
        leaving = true;
        // The stream brings the end, and what was under way before it.
        void client.deregister(handlerId);
      }
    } else if (delivery.kind === "end") {
      const { matched, delivered, lost } = delivery;
      return { id, latenciesNs, matched, delivered, lost, received };
    }
  }
  throw new Error("the stream ended without end");
}

process.stdout.write("ready\n");
for await (const id of createInterface({ input: process.stdin })) {
  const result = await round(id);
  process.stdout.write(`round ${id} ${JSON.stringify(result)}\n`);
}
client.close();
