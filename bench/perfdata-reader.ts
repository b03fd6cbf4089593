/**
 * One process, one reading of a recording: `perfdata-reader FILE` opens it as a replay source, plays it as fast as it can be
 * read through rings that a dispatcher's BatchIndex drains, and prints what that took, as JSON.
 */
import fs from "node:fs";
import { PAGE_BYTES, SAMPLE } from "../src/pmu/abi.js";
import { clearEventfd, POLLIN, poll, viewMemory } from "../src/pmu/ffi.js";
import { FormatTable } from "../src/pmu/format-table.js";
import { BatchIndex, type ScanListener } from "../src/pmu/record.js";
import { RingReader } from "../src/pmu/ring.js";
import { openReplaySource } from "../src/pmu/software/replay.js";

export interface ReaderReport {
  /** From the file's name to a source that can be played: every record found, decompressed, dated and put in order. */
  readonly openNs: number;
  /** From there to the last sample out of the rings. */
  readonly playNs: number;
  /** CPU time of all threads meanwhile. */
  readonly openCpuNs: number;
  readonly playCpuNs: number;
  readonly samples: number;
  /** Of the kind of damage that the reader tells of, and records that no dispatcher would have taken. */
  readonly problems: number;
}

/** The daemon's default. */
const RING_BYTES = 512 * 1024;
/** The end is told by a message, and no fd. */
const POLL_MS = 5;

function cpuNs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) * 1000;
}

async function play(file: string): Promise<ReaderReport> {
  const cpuBefore = cpuNs();
  const start = process.hrtime.bigint();
  const source = openReplaySource({ file, ringBytes: RING_BYTES, speed: Number.POSITIVE_INFINITY });
  const opened = process.hrtime.bigint();
  const cpuOpened = cpuNs();
  const readers = source.rings.map(
    ({ address, dataBytes }) => new RingReader(viewMemory(address, PAGE_BYTES + dataBytes), dataBytes),
  );
  const formats = new FormatTable();
  const [first] = source.resolve({ event: source.defaultEvent });
  const event = source.open(first, { sampleType: SAMPLE.IP, branchCounters: false, wakeEach: false });
  for (const format of event.formats) formats.add(0, format);
  let problems = source.warnings?.length ?? 0;
  const problem = () => {
    problems++;
  };
  const listener: ScanListener = { throttle: () => {}, stray: () => {}, corrupt: problem, lost: problem };
  const batch = new BatchIndex();
  let samples = 0;
  const drain = () => {
    for (const reader of readers) {
      const head = reader.loadHead();
      while (reader.tail < head) {
        const end = batch.scan(reader, head, formats, listener);
        samples += batch.count;
        reader.storeTail(end);
      }
    }
  };
  let ended = false;
  source.onEnd(() => {
    ended = true;
  });
  // Asleep between batches, as a dispatcher is.
  const pollFds = Int32Array.from(source.rings.flatMap(({ pollFd }) => [pollFd, POLLIN]));
  event.enable();
  source.begin();
  while (!ended) {
    if (poll(pollFds, source.rings.length, POLL_MS) > 0) for (const { pollFd } of source.rings) clearEventfd(pollFd);
    drain();
    await new Promise((resolve) => setImmediate(resolve));
  }
  drain();
  const played = process.hrtime.bigint();
  const cpuPlayed = cpuNs();
  event.close();
  await source.close();
  return {
    openNs: Number(opened - start),
    playNs: Number(played - opened),
    openCpuNs: cpuOpened - cpuBefore,
    playCpuNs: cpuPlayed - cpuOpened,
    samples,
    problems,
  };
}

const [file = ""] = process.argv.slice(2);
fs.accessSync(file);
console.log(JSON.stringify({ type: "read", ...(await play(file)) }));
