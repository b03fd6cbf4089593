import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, it } from "node:test";
import { openFilesMax, roomForConnections } from "./open-files.js";

const limits = (soft: string): string =>
  `Limit                     Soft Limit           Hard Limit           Units\nMax open files            ${soft.padEnd(21)}524288               files\n`;

describe("file descriptors of connections", () => {
  it("are half of what there may be, and the operator is told when that is not enough", () => {
    assert.deepEqual(roomForConnections(4096, limits("524288")), { connectionsMax: 4096, problem: null });
    const { connectionsMax, problem } = roomForConnections(4096, limits("1024"));
    assert.equal(connectionsMax, 512);
    assert.match(
      problem ?? "",
      /connections_max is 4096.* 1024 files.*no more than 512.*LimitNOFILE= or ulimit -n to 8192/,
    );
  });

  it("are not bounded where there is no limit", () => {
    assert.equal(roomForConnections(4096, limits("unlimited")).connectionsMax, 4096);
    assert.equal(roomForConnections(4096, "").connectionsMax, 4096);
  });

  it("are read from what the kernel says of this process", () => {
    assert((openFilesMax(readFileSync("/proc/self/limits", "utf8")) ?? Number.POSITIVE_INFINITY) > 0);
  });
});
