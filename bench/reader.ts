/**
 * One subscriber, as a profiler would be: takes every batch and looks at where its samples come from.
 * Arguments: ADDRESS NAME EVENT FREQUENCY_HZ. Deregisters at the end of its input and prints what it received.
 */
import { connect, type SampleBatch } from "../clients/typescript/index.js";
import type { Consumption } from "./lib/load.js";

const [address = "", name = "", event = "", frequencyHz = ""] = process.argv.slice(2);

function print(type: string, value: object = {}): void {
  process.stdout.write(`${JSON.stringify({ type, ...value })}\n`);
}

const perCpu = new Uint32Array(4096);
let received = 0;
let firstTime = 0n;
let lastTime = 0n;

function take(batch: SampleBatch): void {
  if (received === 0) {
    firstTime = batch.time[0] ?? 0n;
    print("streaming");
  }
  lastTime = batch.time[batch.length - 1] ?? lastTime;
  received += batch.length;
  for (let i = 0; i < batch.length; i++) perCpu[batch.cpu[i]]++;
}

const client = connect(address);
const { handlerId } = await client.register({ name, events: [{ event, frequencyHz: Number(frequencyHz) }] });
process.stdin.resume().once("end", () => void client.deregister(handlerId));

for await (const delivery of client.subscribe(handlerId)) {
  if (delivery.kind === "started") print("started");
  else if (delivery.kind === "samples") take(delivery);
  else if (delivery.kind === "end") {
    const { matched, delivered, lost } = delivery;
    const { user, system } = process.cpuUsage();
    const report: Consumption = {
      consumer: name,
      received,
      seconds: Number(lastTime - firstTime) / 1e9,
      perCpu: Object.fromEntries([...perCpu.entries()].filter(([, count]) => count > 0)),
      books: { matched, delivered, lost },
      cpuSeconds: (user + system) / 1e6,
    };
    print("books", report);
  }
}
client.close();
