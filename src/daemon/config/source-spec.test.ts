import assert from "node:assert/strict";
import { test } from "node:test";
import { formatSource, parseSource, type SourceSpec } from "./source-spec.js";

const good: [text: string, value: SourceSpec][] = [
  ["auto", { kind: "auto" }],
  ["perf", { kind: "perf" }],
  ["replay:a:b,c.data", { kind: "replay", file: "a:b,c.data", speed: 1, loop: false }],
  ["replay:f,x,speed=0.5,loop", { kind: "replay", file: "f,x", speed: 0.5, loop: true }],
  ["replay:f,loop,speed=max", { kind: "replay", file: "f", speed: Number.POSITIVE_INFINITY, loop: true }],
  ["synthetic:1", { kind: "synthetic", ratePerSecond: 1, cpus: null, seed: 1 }],
  ["synthetic:100000000,seed=0", { kind: "synthetic", ratePerSecond: 100_000_000, cpus: null, seed: 0 }],
  ["synthetic:5,seed=4294967295,cpus=1024", { kind: "synthetic", ratePerSecond: 5, cpus: 1024, seed: 4_294_967_295 }],
];
for (const [text, value] of good) {
  test(`${text} is taken, and what is written back means the same`, () => {
    assert.deepEqual(parseSource(text), { ok: true, value });
    assert.deepEqual(parseSource(formatSource(value)), { ok: true, value });
  });
}

const bad: [text: string, complaint: RegExp][] = [
  ["", /"" is no source; give auto, perf, replay:FILE\[,speed=N\|max\]\[,loop\] or synthetic:RATE/],
  ["Perf", /is no source/],
  ["perf:x", /takes nothing behind perf/],
  ["auto:", /takes nothing behind auto/],
  ["replay", /names no recording; give replay:FILE/],
  ["replay:", /names no recording/],
  ["replay:,loop", /names no recording/],
  ["replay:f,speed=0", /no usable speed; give a speed from 0.001 to 1000000, or max/],
  ["replay:f,speed=fast", /no usable speed/],
  ["replay:f,speed=1000001", /no usable speed/],
  ["replay:f,loop,speed=1,loop", /gives loop twice; give it once/],
  ["replay:f,speed=1,speed=2", /gives speed twice/],
  ["synthetic", /has no rate; give synthetic:RATE in samples a second/],
  ["synthetic:", /has no rate/],
  ["synthetic:0", /no usable rate; give a whole rate from 1 to 100000000/],
  ["synthetic:100000001", /no usable rate/],
  ["synthetic:1e3", /no usable rate/],
  ["synthetic:-1", /no usable rate/],
  ["synthetic:1,", /unknown option ""/],
  ["synthetic:1,cpu=1", /unknown option "cpu"; give auto/],
  ["synthetic:1,cpus=0", /no usable cpus; give a whole cpus from 1 to 1024/],
  ["synthetic:1,cpus=1=2", /no usable cpus/],
  ["synthetic:1,seed", /no usable seed/],
  ["synthetic:1,seed=4294967296", /no usable seed/],
  ["synthetic:1,seed=1,seed=1", /gives seed twice/],
];
for (const [text, complaint] of bad) {
  test(`${JSON.stringify(text)} is refused`, () => {
    const result = parseSource(text);
    assert(!result.ok);
    assert.match(`${result.what}; ${result.remedy}`, complaint);
  });
}
