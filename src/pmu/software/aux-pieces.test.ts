import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { describe, it } from "node:test";
import { AUX_AREAS_MAX, closeAuxRings, openRecordedAux } from "./aux-pieces.js";
import { recordingOf } from "./aux-pieces.test-support.js";

describe("AUX areas of a recording", () => {
  it("are given a ring each, whatever their numbers", () => {
    const { pieces, rings } = openRecordedAux(...recordingOf(3));
    closeAuxRings(rings);
    assert.equal(rings.length, 3);
    assert.deepEqual(
      pieces.map(({ area, tid }) => [area, tid]),
      [...[0, 1, 2], ...[0, 1, 2]].map((area) => [area, area + 1]),
    );
  });

  it("are refused where they are too many, before any memory is taken", () => {
    assert.throws(() => openRecordedAux(...recordingOf(AUX_AREAS_MAX + 1)), {
      code: "RESOURCE",
      message: /demo\.perf\.data: names 1025 AUX areas, and 1024 can be played: record CPUs/,
    });
  });

  it("are refused with the remedy where the process may have no more of them", () => {
    const areas = 200;
    const script = `
      import { readdirSync } from "node:fs";
      import { recordingOf } from ${JSON.stringify(new URL("./aux-pieces.test-support.js", import.meta.url).href)};
      import { openRecordedAux } from ${JSON.stringify(new URL("./aux-pieces.js", import.meta.url).href)};
      const open = () => readdirSync("/proc/self/fd").length;
      const [recording, index] = recordingOf(${areas});
      const before = open();
      try {
        openRecordedAux(recording, index);
      } catch ({ code, message }) {
        console.log(JSON.stringify({ code, message, leaked: open() - before }));
      }`;
    const node = [process.execPath, "--input-type=module", "-e", script];
    const { stdout, stderr } = spawnSync("sh", ["-c", 'ulimit -n 100; exec "$@"', "sh", ...node], { encoding: "utf8" });
    assert.ok(stdout.includes("{"), stderr);
    const { code, message, leaked } = JSON.parse(stdout.slice(stdout.indexOf("{")).split("\n")[0]);
    assert.equal(code, "RESOURCE");
    assert.match(message, /no room for its 200 AUX areas, .* \(eventfd: EMFILE\): raise RLIMIT_NOFILE/);
    assert.equal(leaked, 0);
  });
});
