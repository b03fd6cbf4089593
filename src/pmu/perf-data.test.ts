import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { basename } from "node:path";
import { describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { RECORD, SAMPLE } from "./abi.js";
import { PmuError } from "./errors.js";
import { parseRecording, type Recording, readRecording } from "./perf-data.js";
import { seededRandom } from "./software/random.js";
import { indexRecords, type RecordIndex } from "./software/record-index.js";

const root = new URL("../../../", import.meta.url);
const DEMO = fileURLToPath(new URL("recordings/demo.perf.data", root));
/** A collection of public recordings, with what perf found in each; not part of the repository. */
const COLLECTION = fileURLToPath(new URL("../shared/perf-data/", root));
const skip = existsSync(COLLECTION) ? false : `no collection of recordings at ${COLLECTION}`;

function typesOf({ bytes }: Recording, { offset }: RecordIndex): number[] {
  const view = new DataView(bytes.buffer);
  return Array.from(offset, (at) => view.getUint32(at, true));
}

function countOf(types: readonly number[], type: number): number {
  return types.filter((other) => other === type).length;
}

function unreadable(message: RegExp): (error: unknown) => boolean {
  return (error) => error instanceof PmuError && error.code === "RECORDING_UNREADABLE" && message.test(error.message);
}

function demoBytes(): Uint8Array<SharedArrayBuffer> {
  return readRecording(DEMO).bytes;
}

function copyOf(bytes: Uint8Array, length = bytes.length): Uint8Array<SharedArrayBuffer> {
  const copy = new Uint8Array(new SharedArrayBuffer(length));
  copy.set(bytes.subarray(0, length));
  return copy;
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
    const index = indexRecords(recording);
    assert.deepEqual(index.cpus, [0, 1]);
    assert.ok(countOf(typesOf(recording, index), RECORD.SAMPLE) > 300);
    assert.ok(recording.bytes.length < 200_000);
  });

  it("is indexed in the order of time", () => {
    const { time } = indexRecords(readRecording(DEMO));
    assert.deepEqual(Array.from(time), Array.from(time.toSorted()));
  });
});

describe("unreadable recordings", () => {
  it("are refused with the place and the remedy", () => {
    assert.throws(() => readRecording("/nonexistent/perf.data"), unreadable(/ENOENT/));
    assert.throws(() => readRecording(fileURLToPath(root)), unreadable(/no regular file/));
    const text = (content: string) => copyOf(Buffer.from(content));
    assert.throws(() => parseRecording("F", text("")), unreadable(/byte 0: is no perf.data file/));
    assert.throws(() => parseRecording("F", text("#!/bin/sh\n")), unreadable(/is no perf.data file/));
    assert.throws(() => parseRecording("F", text("2ELIFREP")), unreadable(/big-endian/));
    const patched = (offset: number, value: bigint) => {
      const bytes = copyOf(demoBytes());
      new DataView(bytes.buffer).setBigUint64(offset, value, true);
      return () => indexRecords(parseRecording("F", bytes));
    };
    assert.throws(patched(8, 16n), unreadable(/pipe mode.*-o FILE/));
    assert.throws(patched(16, 1n << 20n), unreadable(/byte 16: an attr of/));
    assert.throws(patched(16, 0n), unreadable(/byte 16: an attr of/));
    assert.throws(patched(24, 1n << 60n), unreadable(/byte 24: the attrs/));
    assert.throws(patched(48, 0n), unreadable(/never closed/));
    assert.throws(patched(48, 1n << 40n), unreadable(/the data section lies outside/));
    const [area] = readRecording(DEMO).areas;
    assert.ok(area);
    assert.throws(patched(area.start, 0n), unreadable(new RegExp(`byte ${area.start}: a record of 0 bytes`)));
    assert.throws(patched(area.start, (80n << 48n) | 81n), unreadable(/is compressed.*without -z/));
  });

  it("never crash the reader, however they are cut", () => {
    const { bytes: whole, areas } = readRecording(DEMO);
    for (let length = 0; length < (areas[0]?.end ?? 0); length += 509) {
      assert.throws(
        () => indexRecords(parseRecording("F", copyOf(whole, length))),
        unreadable(/./),
        `cut at ${length}`,
      );
    }
  });

  it("never crash the reader, whatever is flipped", () => {
    const seed = 11;
    const random = seededRandom(seed);
    const whole = demoBytes();
    for (let round = 0; round < 300; round++) {
      const bytes = copyOf(whole);
      // The header and the attrs decide most; the rest gets its share.
      for (let flips = 0; flips < 4; flips++) {
        const reach = random() < 0.7 ? 300 : bytes.length;
        bytes[Math.floor(random() * reach)] = Math.floor(random() * 256);
      }
      try {
        indexRecords(parseRecording("F", bytes));
      } catch (error) {
        assert.ok(unreadable(/./)(error), `seed ${seed}, round ${round}: ${error}`);
      }
    }
  });
});

interface Expected {
  readonly mode: string;
  readonly features: readonly string[];
  readonly walker_counts: Readonly<Record<string, number>>;
  readonly attrs: readonly { readonly type: number; readonly config: string; readonly sample_type_raw: string }[];
  readonly samples_by_event: Readonly<Record<string, number>>;
}

describe("public recordings", { skip }, () => {
  const files = skip === false ? readdirSync(COLLECTION).filter((name) => name.endsWith(".perf.data")) : [];
  for (const name of files) {
    const expected: Expected = JSON.parse(
      readFileSync(COLLECTION + name.replace(".perf.data", ".records.json"), "utf8"),
    );
    if (expected.mode !== "file" || expected.features.includes("COMPRESSED")) {
      it(`${name} is in a mode that is refused`, () => {
        assert.throws(() => indexRecords(readRecording(COLLECTION + name)), unreadable(/pipe mode|compressed/));
      });
      continue;
    }
    it(`${name} holds what perf finds in it`, () => {
      const recording = readRecording(COLLECTION + name);
      const index = indexRecords(recording);
      const types = typesOf(recording, index);
      const { walker_counts: counts, attrs, samples_by_event: byName } = expected;
      assert.equal(countOf(types, RECORD.SAMPLE), counts.SAMPLE ?? 0);
      assert.equal(countOf(types, RECORD.LOST), counts.LOST ?? 0);
      assert.equal(countOf(types, RECORD.THROTTLE), counts.THROTTLE ?? 0);
      assert.deepEqual(
        recording.attrs.map(({ type, config, sampleType }) => [type, config, sampleType]),
        attrs.map(({ type, config, sample_type_raw }) => [type, BigInt(config), Number(sample_type_raw)]),
      );
      assert.deepEqual(Array.from(index.time), Array.from(index.time.toSorted()));
      const found: Record<string, number> = {};
      for (const [i, type] of types.entries()) {
        if (type !== RECORD.SAMPLE) continue;
        const event = recording.attrs[index.attr[i] as number]?.name as string;
        found[event] = (found[event] ?? 0) + 1;
      }
      // Group reads count a member's value as a sample of its own.
      if (!name.startsWith("local-group-read")) assert.deepEqual(found, byName);
    });
  }

  it("malformed ones are refused or read, and nothing else", () => {
    const folder = `${COLLECTION}malformed/`;
    for (const name of readdirSync(folder).filter((file) => file.endsWith(".perf.data"))) {
      try {
        indexRecords(readRecording(folder + name));
      } catch (error) {
        assert.ok(unreadable(new RegExp(basename(name)))(error), `${name}: ${error}`);
      }
    }
  });
});
