/** The Dockerfile: the linter's opinion, and what the builder is sent. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { DockerfileParser } from "dockerfile-ast";
import { validate } from "dockerfile-utils";
import { REPOSITORY } from "./support/daemon.js";
import { ignored, ignorePatterns } from "./support/image.js";

const DOCKERFILE = path.join(REPOSITORY, "deploy/docker/Dockerfile");
const text = fs.readFileSync(DOCKERFILE, "utf8");
const patterns = ignorePatterns(fs.readFileSync(`${DOCKERFILE}.dockerignore`, "utf8"));

test("dockerfile-utils finds nothing", () => {
  assert.deepEqual(validate(text), []);
  // It would.
  assert.notDeepEqual(validate(text.replace("USER 10810:10810", "USR 10810:10810")), []);
});

test("the image's shell scripts are sound", () => {
  const script = path.join(REPOSITORY, "deploy/docker/entrypoint.sh");
  assert.equal(spawnSync("sh", ["-n", script]).status, 0);
  assert.equal(fs.statSync(script).mode & 0o111, 0o111);
});

test("several stages, a user by number that is not root, a health check; no secrets, no `latest`", () => {
  const instructions = DockerfileParser.parse(text).getInstructions();
  const of = (keyword: string) => instructions.filter((instruction) => instruction.getKeyword() === keyword);
  assert.ok(of("FROM").length > 1);
  assert.match(of("USER").at(-1)?.getArgumentsContent() ?? "", /^[1-9]\d*:[1-9]\d*$/);
  assert.equal(of("HEALTHCHECK").length, 1);
  assert.equal(of("ADD").length, 0);
  for (const image of of("ARG")) assert.match(image.getArgumentsContent() ?? "", /^\w+=[a-z]+:(?!latest)\S+$/);
});

test("the builder is sent what is built from, and no more", () => {
  for (const name of ["src/daemon/main.ts", "package-lock.json", "deploy/docker/entrypoint.sh", "docs/service.md"]) {
    assert.equal(ignored(patterns, name), false, name);
  }
  for (const name of [
    ".git/config",
    "node_modules/zod/index.js",
    "dist/src/x.js",
    ".setup/build",
    "deploy/debian/rules",
  ]) {
    assert.equal(ignored(patterns, name), true, name);
  }
  // Nothing of the list is gone from the tree.
  for (const pattern of patterns.filter((line) => line.startsWith("!"))) {
    assert.ok(fs.existsSync(path.join(REPOSITORY, pattern.slice(1))), pattern);
  }
});
