import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { test } from "node:test";
import { createLogger, type LogStream } from "./log.js";

function capture(isTTY?: boolean): { stream: LogStream; lines: string[] } {
  const lines: string[] = [];
  const write = (line: string) => {
    lines.push(line);
  };
  return { stream: isTTY === undefined ? { write } : { write, isTTY }, lines };
}

test("JSON lines: level as a word, ISO time, no pid and no host name", () => {
  const { stream, lines } = capture();
  const logger = createLogger("info", stream);
  logger.debug("not this one");
  logger.info({ source: "perf" }, "nmid is ready");
  logger.child({ part: "grpc" }).error({ err: new Error("boom") }, "stream failed");
  assert.equal(lines.length, 2);
  const [ready, failed] = lines.map((line) => JSON.parse(line));
  assert.deepEqual(Object.keys(ready).sort(), ["level", "msg", "source", "time"]);
  assert.equal(ready.level, "info");
  assert.equal(ready.msg, "nmid is ready");
  assert.equal(new Date(ready.time).toISOString(), ready.time);
  assert.equal(failed.part, "grpc");
  assert.equal(failed.err.message, "boom");
  assert.match(failed.err.stack, /log\.test/);
});

test("readable lines on a terminal, written at once, with control characters made harmless", () => {
  const { stream, lines } = capture(true);
  createLogger("info", stream).info({ handler: "a\u001b[31m\nb" }, "registered \u001b[2J\r\nforged\u009b");
  const text = lines.join("");
  assert.match(text, /^\S*\[?\d\d:\d\d:\d\d\.\d{3}\]?.*INFO/);
  assert.ok(text.includes("registered \\x1b[2J\\x0d\\x0aforged\\x9b"), text);
  assert.ok(!text.includes("\u001b[2J") && !text.includes("\u001b[31m\nb") && !text.includes("\r"));
});

test("silent says nothing; an unknown level is refused", () => {
  const { stream, lines } = capture();
  createLogger("silent", stream).fatal("x");
  assert.deepEqual(lines, []);
  assert.throws(() => createLogger("loud" as "info", stream), /loud/);
});

const child = `import(${JSON.stringify(new URL("./log.js", import.meta.url).href)}).then(({ createLogger }) => {
  const logger = createLogger("info");
  for (let i = 0; i < 100; i++) logger.info({ i }, "line");
  process.exit(3);
});`;

test("on a pipe: JSON on stdout, nothing on stderr, complete although the process exits at once", () => {
  const { status, stdout, stderr } = spawnSync(process.execPath, ["-e", child], { encoding: "utf8", timeout: 20_000 });
  assert.equal(status, 3);
  assert.equal(stderr, "");
  const numbers = stdout.trimEnd().split("\n");
  assert.deepEqual(
    numbers.map((line) => JSON.parse(line).i),
    Array.from({ length: 100 }, (_, i) => i),
  );
});

const script = spawnSync("script", ["--version"]);

test("on a terminal: readable and complete", { skip: script.error && "script(1) is not installed" }, () => {
  const command = `exec "$NODE" -e "$CODE"`;
  const { status, stdout } = spawnSync("script", ["-qec", command, "/dev/null"], {
    encoding: "utf8",
    timeout: 20_000,
    env: { ...process.env, NODE: process.execPath, CODE: child },
    stdio: ["ignore", "pipe", "pipe"],
  });
  assert.equal(status, 3);
  assert.equal(stdout.match(/INFO/g)?.length, 100);
  assert.doesNotMatch(stdout, /"level":/);
});

test("tokens are censored by their key, addresses of the kernel by their looks, and a line of JSON stays one", () => {
  const { stream, lines } = capture();
  const logger = createLogger("info", stream);
  logger.info(
    {
      token: "s3cret",
      request: { resume_token: "s3cret", name: "kept" },
      events: ["mem:0xffffffff81000000/8:x", "cycles"],
      where: "at FFFF800012345678, or 18446603336221196288",
      ip: 2 ** 64 - 2 ** 31,
    },
    "failed at ffffffff81abcdef",
  );
  const [line] = lines;
  assert.doesNotMatch(line, /s3cret|ffffffff8|ffff8000|18446/i);
  const { token, request, events, where, ip, msg } = JSON.parse(line);
  assert.deepEqual([token, request], ["(secret)", { resume_token: "(secret)", name: "kept" }]);
  assert.deepEqual(events, ["mem:(kernel address)/8:x", "cycles"]);
  assert.equal(where, "at (kernel address), or (kernel address)");
  assert.equal(ip, null);
  assert.equal(msg, "failed at (kernel address)");
});

test("what only looks a little like an address is left alone", () => {
  const { stream, lines } = capture();
  const fields = { sha: "ff".repeat(32), user: "0x7fffffffe000", count: 1844674407, near: "ffffffff" };
  createLogger("info", stream).info(fields, "x");
  const { level: _, time: __, msg: ___, ...rest } = JSON.parse(lines[0]);
  assert.deepEqual(rest, fields);
});

const levels = `import(${JSON.stringify(new URL("./log.js", import.meta.url).href)}).then(({ createLogger }) => {
  const logger = createLogger("trace");
  for (const level of ["trace", "debug", "info", "warn", "error", "fatal"]) logger[level]("line");
});`;

/** Runs `levels` with stdout in a file that is, or is not, the one JOURNAL_STREAM names. */
function journalled(isJournals: boolean): string[] {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "nmid-log-"));
  const file = path.join(dir, "journal");
  const fd = fs.openSync(file, "w");
  try {
    const { dev, ino } = fs.fstatSync(fd, { bigint: true });
    const env = { ...process.env, JOURNAL_STREAM: isJournals ? `${dev}:${ino}` : `${dev}:${ino + 1n}` };
    const { status } = spawnSync(process.execPath, ["-e", levels], { env, stdio: ["ignore", fd, "inherit"] });
    assert.equal(status, 0);
    return fs.readFileSync(file, "utf8").trimEnd().split("\n");
  } finally {
    fs.closeSync(fd);
    fs.rmSync(dir, { recursive: true });
  }
}

const PRIORITY = { trace: "7", debug: "7", info: "6", warn: "4", error: "3", fatal: "2" };

test("into the journal lines begin with their priority; where stdout leads elsewhere they do not", () => {
  const said = journalled(true).map((line) => {
    const [, priority, json] = /^<(\d)>(\{.*\})$/.exec(line) ?? [];
    return [JSON.parse(json).level, priority];
  });
  assert.deepEqual(new Map(said as [string, string][]), new Map(Object.entries(PRIORITY)));
  assert.equal(said.length, 6);
  for (const line of journalled(false)) assert.match(line, /^\{/);
});
