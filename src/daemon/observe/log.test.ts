import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
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
