import assert from "node:assert/strict";
import { join } from "node:path";
import { describe, it } from "node:test";
import { FIXTURES } from "./collection.test-support.js";
import { Cursor, RecordingError } from "./image.js";
import { Bytes, imageOf } from "./record-bytes.test-support.js";
import { readRecording } from "./recording.js";
import { parseTracepointFormat, readTracingData } from "./tracing-data.js";

const FORMAT = `name: user_event
ID: 1234
format:
	field:unsigned short common_type;	offset:0;	size:2;	signed:0;
	field:unsigned char common_flags;	offset:2;	size:1;	signed:0;
	field:int common_pid;	offset:4;	size:4;	signed:1;

	field:char comm[16];	offset:8;	size:16;	signed:1;
	field:const char * name;	offset:24;	size:8;	signed:0;
	field:__data_loc char[] path;	offset:32;	size:4;	signed:1;
	field:__rel_loc unsigned long[] args;	offset:36;	size:4;	signed:0;
	field:struct in6_addr saddr;	offset:40;	size:16;

print fmt: "comm=%s name=%s", REC->comm,
REC->name
`;

const common = { arrayLength: null, dynamic: null };

describe("a tracepoint's format", () => {
  it("says where its fields are and of what type", () => {
    assert.deepEqual(parseTracepointFormat("user_events", FORMAT), {
      system: "user_events",
      name: "user_event",
      id: 1234,
      fields: [
        { name: "common_type", type: "unsigned short", offset: 0, size: 2, isSigned: false, ...common },
        { name: "common_flags", type: "unsigned char", offset: 2, size: 1, isSigned: false, ...common },
        { name: "common_pid", type: "int", offset: 4, size: 4, isSigned: true, ...common },
        { name: "comm", type: "char[16]", offset: 8, size: 16, isSigned: true, arrayLength: 16, dynamic: null },
        { name: "name", type: "const char *", offset: 24, size: 8, isSigned: false, ...common },
        {
          ...{ name: "path", type: "__data_loc char[]", offset: 32, size: 4, isSigned: true },
          ...{ arrayLength: 0, dynamic: "data_loc" },
        },
        {
          ...{ name: "args", type: "__rel_loc unsigned long[]", offset: 36, size: 4, isSigned: false },
          ...{ arrayLength: 0, dynamic: "rel_loc" },
        },
        { name: "saddr", type: "struct in6_addr", offset: 40, size: 16, isSigned: false, ...common },
      ],
      printFormat: '"comm=%s name=%s", REC->comm,\nREC->name',
      text: FORMAT,
    });
    assert.equal(parseTracepointFormat("s", "name: x\n"), null);
    assert.equal(parseTracepointFormat("s", ""), null);
  });

  it("is in a recording of tracepoints, and names them", () => {
    const { features, attrs } = readRecording(join(FIXTURES, "tp-sched-sys.perf.data"));
    const formats = features.TRACING_DATA?.tracepoints ?? [];
    assert.deepEqual(
      formats.map(({ system, name }) => `${system}:${name}`),
      ["sched:sched_process_exit", "sched:sched_switch", "sched:sched_wakeup"],
    );
    for (const { name, config, type } of attrs) {
      if (type === 2) assert.equal(formats.find(({ id }) => BigInt(id) === config)?.name, name.split(":")[1]);
    }
    const [, sched] = formats;
    assert.deepEqual(sched?.fields.find(({ name }) => name === "next_comm")?.arrayLength, 16);
  });

  it("is refused where the section is cut or no such section", () => {
    const section = new Bytes().raw([0x17, 8, 0x44]).raw(Buffer.from("tracing0.6\0")).u8(0, 8).u32(4096);
    for (const part of ["header_page", "header_event"])
      section
        .raw(Buffer.from(`${part}\0`))
        .u64(1)
        .u8(65);
    section.u32(0).u32(1).raw(Buffer.from("user_events\0")).u32(1).u64(FORMAT.length).raw(Buffer.from(FORMAT));
    const read = (bytes: Uint8Array) => {
      const { image, at } = imageOf(bytes);
      return readTracingData(new Cursor(image, at, image.length, "the tracing data"));
    };
    const whole = section.toArray();
    const data = read(whole);
    assert.deepEqual([data.version, data.longBytes, data.pageBytes, data.isBigEndian], ["0.6", 8, 4096, false]);
    assert.deepEqual(data.tracepoints, [parseTracepointFormat("user_events", FORMAT)]);
    for (let length = 0; length < whole.length; length++) {
      assert.throws(() => read(whole.subarray(0, length)), RecordingError, `cut to ${length}`);
    }
  });
});

it("reads a declaration of any length", () => {
  const field = (declaration: string): string => `\tfield:${declaration};\toffset:24;\tsize:4;\tsigned:0;\n`;
  const fields = (...declarations: string[]) =>
    parseTracepointFormat("s", `${FORMAT}\n${declarations.map(field).join("")}`)?.fields.map(({ name }) => name);
  const before = fields() ?? [];
  const long = "x".repeat(500_000);
  assert.deepEqual(fields(`${long}!`, `${long}${" ".repeat(500_000)}!`, "int ;", "]"), before);
  assert.deepEqual(fields(`int ${long}`, "a [4] b [ 5 ] ", "int c[2][3]"), [...before, long, "b"]);
});

it("takes more formats than a call takes arguments", () => {
  const text = "name:a\nID:1\n";
  const count = 200_000;
  const entry = new Bytes().u64(text.length).raw(Buffer.from(text)).toArray();
  const head = new Bytes().raw([0x17, 8, 0x44]).raw(Buffer.from("tracing0.6\0")).u8(0, 8).u32(4096);
  for (const part of ["header_page", "header_event"]) head.raw(Buffer.from(`${part}\0`)).u64(0);
  head.u32(0).u32(1).raw(Buffer.from("sched\0")).u32(count);
  const entries = new Uint8Array(entry.length * count);
  for (let at = 0; at < entries.length; at += entry.length) entries.set(entry, at);
  const { image, at } = imageOf(head.toArray(), entries);
  assert.equal(readTracingData(new Cursor(image, at, image.length, "the tracing data")).tracepoints.length, count);
});
