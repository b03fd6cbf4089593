import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, it, type TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { RECORD, SAMPLE } from "../abi.js";
import { PmuError } from "../errors.js";
import { seededRandom } from "../software/random.js";
import { indexRecords } from "../software/record-index.js";
import { countsByName, DEMO, FIXTURES, MALFORMED, skipCollection } from "./collection.test-support.js";
import { type Damage, RecordingError } from "./image.js";
import { decodeKernelRecord } from "./kernel-records.js";
import { Bytes } from "./record-bytes.test-support.js";
import { parseRecording, type Recording, readRecording } from "./recording.js";

function unreadable(message: RegExp): (error: unknown) => boolean {
  return (error) => error instanceof PmuError && error.code === "RECORDING_UNREADABLE" && message.test(error.message);
}

function copyOf(bytes: Uint8Array, length = bytes.length): Uint8Array<SharedArrayBuffer> {
  const copy = new Uint8Array(new SharedArrayBuffer(length));
  copy.set(bytes.subarray(0, length));
  return copy;
}

const demoBytes = (): Uint8Array<SharedArrayBuffer> => copyOf(readFileSync(DEMO));

/** Decodes every record that is indexed. Returns how many are sound, and the damage of the first that is not. */
function decodeAll(recording: Recording): { readonly sound: number; readonly damage: Damage | null } {
  const index = indexRecords(recording);
  let sound = 0;
  let damage: Damage | null = index.damage;
  for (let i = 0; i < index.count; i++) {
    const attr = recording.attrs[index.attr[i] as number];
    assert.ok(attr !== undefined);
    try {
      decodeKernelRecord(recording.image, index.offset[i] as number, attr);
      sound++;
    } catch (error) {
      assert.ok(error instanceof RecordingError, String(error));
      damage ??= { offset: error.offset, message: error.detail };
    }
  }
  return { sound, damage };
}

describe("the shipped recording", () => {
  it("holds what a first look needs", () => {
    const recording = readRecording(DEMO);
    const [attr] = recording.attrs;
    assert.ok(attr && recording.attrs.length === 1);
    assert.equal(attr.name, "cpu-clock");
    assert.equal(attr.clockId, 1);
    assert.ok(attr.sampleIdAll && attr.isFrequency);
    for (const bit of [SAMPLE.IDENTIFIER, SAMPLE.TID, SAMPLE.TIME, SAMPLE.CPU, SAMPLE.PERIOD, SAMPLE.CALLCHAIN]) {
      assert.notEqual(attr.sampleType & bit, 0);
    }
    assert.deepEqual(recording.damage, []);
    assert.deepEqual(indexRecords(recording).cpus, [0, 1]);
    assert.ok((recording.counts[RECORD.SAMPLE] as number) > 300);
    assert.ok(recording.image.length < 200_000);
    assert.equal(recording.features.HOSTNAME, "demo");
  });

  it("is indexed in the order of time", () => {
    const { time } = indexRecords(readRecording(DEMO));
    assert.deepEqual(Array.from(time), Array.from(time.toSorted()));
  });
});

describe("a directory, as perf record --threads writes it", () => {
  /** The demo with the first half of its records in data.0, and the next part in data.10. */
  function directory(t: TestContext): { readonly folder: string; readonly bytes: Buffer; readonly cuts: number[] } {
    const folder = mkdtempSync(join(tmpdir(), "nmid-threads-"));
    t.after(() => rmSync(folder, { recursive: true }));
    const bytes = Buffer.from(demoBytes());
    const [start, size] = [40, 48].map((at) => Number(bytes.readBigUInt64LE(at))) as [number, number];
    const cuts = [start];
    let at = start;
    for (const share of [0.5, 0.75]) {
      while (at < start + size * share) at += bytes.readUInt16LE(at + 6);
      cuts.push(at);
    }
    writeFileSync(join(folder, "data.0"), bytes.subarray(cuts[0], cuts[1]));
    writeFileSync(join(folder, "data.10"), bytes.subarray(cuts[1], cuts[2]));
    const head = Buffer.from(bytes);
    head.writeBigUInt64LE(BigInt(at), 40);
    head.writeBigUInt64LE(BigInt(start + size - at), 48);
    writeFileSync(join(folder, "data"), head);
    writeFileSync(join(folder, "data.old"), "not one of them");
    return { folder, bytes, cuts };
  }

  it("is read as one recording, in the order of time", (t) => {
    const whole = readRecording(DEMO);
    const found = readRecording(directory(t).folder);
    assert.deepEqual(found.damage, []);
    assert.deepEqual(found.counts, whole.counts);
    assert.deepEqual(found.features, whole.features);
    const times = (recording: Recording) => {
      const { time, timeBaseNs } = indexRecords(recording);
      return Array.from(time, (own) => BigInt(own) + timeBaseNs).sort((a, b) => Number(a - b));
    };
    assert.deepEqual(times(found), times(whole));
  });

  it("tells in which file it is damaged, and reads the others", (t) => {
    const { folder, cuts } = directory(t);
    const file = join(folder, "data.0");
    writeFileSync(file, Buffer.concat([Buffer.alloc(8), readFileSync(file)]));
    const { damage, runs } = readRecording(folder);
    assert.deepEqual(
      damage.map(({ offset, message }) => [offset, message.slice(0, 26)]),
      [[0, "data.0: a record of 0 byte"]],
    );
    const bytesRead = runs.reduce((sum, { start, end }) => sum + end - start, 0);
    assert.ok(bytesRead >= (cuts[2] as number) - (cuts[1] as number));
  });

  it("is refused where one of its files is none", (t) => {
    const { folder } = directory(t);
    mkdirSync(join(folder, "data.3"));
    assert.throws(() => readRecording(folder), unreadable(/data\.3, byte 0: is no regular file/));
  });
});

describe("unreadable recordings", () => {
  it("are refused with the place and the remedy where nothing can be read", () => {
    assert.throws(() => readRecording("/nonexistent/perf.data"), unreadable(/ENOENT/));
    assert.throws(
      () => readRecording(fileURLToPath(new URL(".", import.meta.url))),
      unreadable(/is a directory without the file data/),
    );
    assert.throws(() => readRecording("/dev/null"), unreadable(/no regular file/));
    const text = (content: string) => copyOf(Buffer.from(content));
    assert.throws(() => parseRecording("F", text("")), unreadable(/byte 0: is no perf.data file/));
    assert.throws(() => parseRecording("F", text("#!/bin/sh\n")), unreadable(/is no perf.data file/));
    assert.throws(() => parseRecording("F", text("2ELIFREP")), unreadable(/big-endian/));
    assert.throws(() => parseRecording("F", text("PERFFILE")), unreadable(/first format/));
    const patched = (offset: number, value: bigint) => {
      const bytes = demoBytes();
      new DataView(bytes.buffer).setBigUint64(offset, value, true);
      return () => parseRecording("F", bytes);
    };
    assert.throws(patched(8, 17n), unreadable(/byte 8: a header of 17 bytes/));
    assert.throws(patched(24, 1n << 60n), unreadable(/byte 24: the attrs lies outside/));
    assert.throws(patched(40, 1n << 60n), unreadable(/byte 40: the data section at .* lies outside/));
  });

  it("are read as far as they go, and say where that is", () => {
    const patched = (offset: number, value: bigint): Recording => {
      const bytes = demoBytes();
      new DataView(bytes.buffer).setBigUint64(offset, value, true);
      return parseRecording("F", bytes);
    };
    const whole = readRecording(DEMO);
    const samples = whole.counts[RECORD.SAMPLE] as number;
    const [run] = whole.runs;
    assert.ok(run !== undefined);
    const cases: [recording: Recording, at: number, message: RegExp, samples: number][] = [
      [patched(16, 1n << 20n), 16, /an attr of 1048560 bytes/, samples],
      [patched(16, 0n), 16, /an attr of -16 bytes/, samples],
      [patched(48, 0n), 48, /never closed/, samples],
      [patched(48, 1n << 40n), 48, /the file is cut off/, samples],
      [patched(run.start, 0n), run.start, /a record of 0 bytes; the file is damaged: record again/, 0],
      [patched(run.start, (81n << 0n) | (80n << 48n)), run.start, /cannot be decompressed: no zstd frame/, 0],
    ];
    for (const [recording, at, message, expected] of cases) {
      const [first] = recording.damage;
      assert.ok(first !== undefined, String(message));
      assert.equal(first.offset, at);
      assert.match(first.message, message);
      assert.equal(recording.counts[RECORD.SAMPLE], expected, String(message));
    }
  });

  it("hold no more ids than there is room for, though the sections of all events are the same", () => {
    const [events, entryBytes] = [10, 64 + 16];
    const at = 104 + events * entryBytes;
    const file = new Bytes().raw(Buffer.from("PERFILE2")).u64(104, entryBytes, 104, events * entryBytes, at, 8, 0, 0);
    file.u64(0, 0, 0, 0);
    for (let i = 0; i < events; i++) file.u32(1, 64).u64(0, 4000, SAMPLE.IDENTIFIER, 0, 0, 0, 0).u64(0, at);
    const { attrs, damage } = parseRecording("F", copyOf(file.u32(68).u16(0, 8).toArray()));
    const ids = attrs.map((attr) => attr.ids.length);
    assert.deepEqual(ids, [at / 8, ...new Array(events - 1).fill(0)]);
    assert.match(damage[0]?.message ?? "", /more ids than the file can hold/);
  });

  it("never crash the reader, however they are cut", () => {
    for (const name of ["zstd2-pipe", "stat-read", "cpuclock-g-pipe", "zstd-file-big"]) {
      const bytes = readFileSync(join(FIXTURES, `${name}.perf.data`));
      const whole = parseRecording("F", copyOf(bytes));
      const all = decodeAll(whole).sound;
      let longest = 0;
      for (let length = 0; length < bytes.length; length += 1 + Math.floor(bytes.length / 40)) {
        try {
          const recording = parseRecording("F", copyOf(bytes, length));
          const { sound } = decodeAll(recording);
          assert.ok(sound >= longest && sound <= all, `${name} cut at ${length}`);
          longest = sound;
          if (whole.mode === "file") assert.ok(recording.damage.length > 0, `${name} cut at ${length}`);
        } catch (error) {
          assert.ok(unreadable(/./)(error), `${name} cut at ${length}: ${error}`);
          assert.equal(longest, 0, `${name} cut at ${length}: ${error}`);
        }
      }
      assert.ok(longest > all / 2, name);
    }
  });

  it("never crash the reader, whatever is flipped", () => {
    const seed = 11;
    const random = seededRandom(seed);
    for (const name of ["zstd2-pipe", "group-read", "intr-regs", "tp-sched-sys", "pf-addr-phys"]) {
      const whole = readFileSync(join(FIXTURES, `${name}.perf.data`));
      for (let round = 0; round < 100; round++) {
        const bytes = copyOf(whole);
        // The header and the attrs decide most; the rest gets its share.
        for (let flips = 0; flips < 4; flips++) {
          const reach = random() < 0.5 ? 400 : bytes.length;
          bytes[Math.floor(random() * reach)] = Math.floor(random() * 256);
        }
        try {
          decodeAll(parseRecording("F", bytes));
        } catch (error) {
          assert.ok(unreadable(/./)(error), `${name}, seed ${seed}, round ${round}: ${error}`);
        }
      }
    }
  });
});

interface ExpectedMalformed {
  readonly file: string;
  readonly mode: string | null;
  readonly walker_counts: Readonly<Record<string, number>> | null;
}

describe("malformed public recordings", { skip: skipCollection }, () => {
  if (skipCollection !== false) return;
  const expected: readonly ExpectedMalformed[] = JSON.parse(readFileSync(join(MALFORMED, "expect.json"), "utf8"));
  it("are all spoken of", () => {
    const files = readdirSync(MALFORMED).filter((file) => file.endsWith(".perf.data"));
    assert.deepEqual(files.sort(), expected.map(({ file }) => file).sort());
  });

  for (const { file, walker_counts } of expected) {
    it(`${file} gives what was readable, and says what is wrong`, () => {
      let recording: Recording;
      try {
        recording = readRecording(join(MALFORMED, file));
      } catch (error) {
        assert.ok(unreadable(/byte \d+: .*; ./)(error), String(error));
        assert.equal(walker_counts?.SAMPLE ?? 0, 0);
        return;
      }
      const { damage } = decodeAll(recording);
      assert.ok(recording.damage.length > 0 || damage !== null, "nothing is said of the damage");
      for (const { offset, message } of recording.damage) {
        assert.ok(offset >= 0 && offset <= recording.image.fileBytes);
        assert.match(message, /; ./);
      }
      assert.deepEqual(countsByName(recording.counts), walker_counts ?? {});
    });
  }
});
