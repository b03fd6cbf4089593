/** The import walls of biome.json, seen to stand: a check that cannot fail proves nothing. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, describe, test } from "node:test";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url));
const KOFFI = "Only src/pmu/ffi.ts may import koffi.";
const PMU = "src/pmu imports nothing from the rest of the project.";
const REGISTRY = "src/registry imports node: and its own files, nothing else.";
const SRC = "src must not depend on clients.";
const CLIENTS = "Clients depend on proto alone, never on src.";

const violations: [file: string, line: string, message: string][] = [
  ["src/pmu/ring.ts", 'export { load } from "koffi";', KOFFI],
  ["src/pmu/dynamic.ts", 'export const koffi = await import("koffi");', KOFFI],
  ["src/pmu/deep.ts", 'export * from "koffi/indirect";', KOFFI],
  ["src/daemon/main.ts", 'export { load } from "koffi";', KOFFI],
  ["clients/nmictl/main.ts", 'export { load } from "koffi";', KOFFI],
  ["bench/bench.ts", 'export { load } from "koffi";', KOFFI],
  ["test/some.test.ts", 'export { load } from "koffi";', KOFFI],
  ["src/pmu/to-registry.ts", 'export * from "../registry/layout.js";', PMU],
  ["src/pmu/to-daemon.ts", 'export * from "../daemon/main.js";', PMU],
  ["src/pmu/to-clients.ts", 'export * from "../../clients/typescript/client.js";', PMU],
  ["src/pmu/to-bench.ts", 'export * from "../../bench/bench.js";', PMU],
  ["src/pmu/types.ts", 'export type * from "../registry/layout.js";', PMU],
  ["src/pmu/sources/below.ts", 'export * from "../../registry/layout.js";', PMU],
  ["src/pmu/ffi.ts", 'export * from "../daemon/main.js";', PMU],
  ["src/registry/to-pmu.ts", 'export * from "../pmu/ffi.js";', REGISTRY],
  ["src/registry/to-daemon.ts", 'export * from "../daemon/main.js";', REGISTRY],
  ["src/registry/to-package.ts", 'export { z } from "zod";', REGISTRY],
  ["src/registry/to-scoped.ts", 'export * from "@grpc/grpc-js";', REGISTRY],
  ["src/registry/to-koffi.ts", 'export { load } from "koffi";', REGISTRY],
  ["src/daemon/to-clients.ts", 'export * from "../../clients/typescript/client.js";', SRC],
  ["src/elsewhere/to-clients.ts", 'export * from "../../clients/typescript/client.js";', SRC],
  ["clients/typescript/to-pmu.ts", 'export * from "../../src/pmu/source.js";', CLIENTS],
  ["clients/nmictl/to-registry.ts", 'export type * from "../../src/registry/layout.js";', CLIENTS],
];

const legal: [file: string, line: string][] = [
  ["src/pmu/ffi.ts", 'export { load } from "koffi";'],
  ["src/pmu/source.ts", 'export { load } from "./ffi.js";'],
  ["src/pmu/sources/perf.ts", 'export { load } from "../ffi.js";'],
  ["src/registry/table.ts", 'export { open } from "node:fs/promises";'],
  ["src/registry/reader.ts", 'export { openSync } from "node:fs";'],
  ["src/registry/slots.ts", 'export { open } from "./table.js";'],
  ["src/daemon/main.ts", 'export { load } from "../pmu/source.js";'],
  ["src/daemon/table.ts", 'export { open } from "../registry/table.js";'],
  ["clients/typescript/client.ts", 'export { credentials } from "@grpc/grpc-js";'],
  ["clients/nmictl/main.ts", 'export { credentials } from "../typescript/client.js";'],
  ["bench/bench.ts", 'export { load } from "../src/pmu/source.js";'],
];

const trees: string[] = [];
after(() => {
  for (const tree of trees) rmSync(tree, { recursive: true });
});

/** Lints the files in a tree of their own under the project's rules; answers `rule message` lines by file. */
function lint(files: readonly (readonly [file: string, line: string, ...rest: string[]])[]) {
  const tree = mkdtempSync(join(tmpdir(), "nmid-walls-"));
  trees.push(tree);
  for (const name of ["biome.json", "package.json"]) copyFileSync(join(root, name), join(tree, name));
  for (const [file, line] of files) {
    mkdirSync(dirname(join(tree, file)), { recursive: true });
    writeFileSync(join(tree, file), `${line}\n`);
  }
  const biome = join(root, "node_modules/@biomejs/biome/bin/biome");
  const flags = ["--vcs-enabled=false", "--reporter=github", "--max-diagnostics=none"];
  const { status, stdout, stderr } = spawnSync(process.execPath, [biome, "lint", ...flags], {
    cwd: tree,
    encoding: "utf8",
    timeout: 60_000,
  });
  const found = new Map<string, string[]>();
  for (const [, rule = "", path = "", message = ""] of stdout.matchAll(
    /^::error title=(.*?),file=(.*?),.*?::(.*)$/gm,
  )) {
    const file = path.slice(path.indexOf(tree) + tree.length + 1);
    found.set(file, [...(found.get(file) ?? []), `${rule} ${message}`]);
  }
  return { status, found, output: stdout + stderr };
}

describe("a planted import through a wall is refused", () => {
  const { status, found, output } = lint(violations);
  assert.equal(status, 1, output);
  for (const [file, line, message] of violations) {
    test(`${file}: ${line}`, () => {
      assert(found.get(file)?.includes(`lint/style/noRestrictedImports ${message}`), output);
    });
  }
});

test("what the walls allow passes", () => {
  const { status, output } = lint(legal);
  assert.equal(status, 0, output);
});

test("a promise that nobody waits for is refused", () => {
  const { found, output } = lint([["src/daemon/go.ts", "async function go(): Promise<void> {}\ngo();"]]);
  assert(
    found.get("src/daemon/go.ts")?.some((line) => line.startsWith("lint/nursery/noFloatingPromises")),
    output,
  );
});
