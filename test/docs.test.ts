/** The tests that documents name are there: what is promised in a table stays shown. */
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { REPOSITORY } from "./support/daemon.js";

const DOCUMENTS = ["SECURITY.md", "docs/reliability.md"];
/** The last cell of a row: `path`: part of a test's name. */
const REFERENCE = /^\|.*\| `([^`]+\.test\.ts)`: ([^|]+?) *\|$/;

for (const document of DOCUMENTS) {
  test(`${document} names tests that there are`, () => {
    const rows = fs
      .readFileSync(path.join(REPOSITORY, document), "utf8")
      .split("\n")
      .filter((line) => line.startsWith("| ") && !/^\| (-+|cannot|fault) /.test(line));
    assert.ok(rows.length > 0);
    const missing = rows.filter((row) => {
      const [, file, name] = REFERENCE.exec(row) ?? [];
      if (file === undefined) return true;
      const source = path.join(REPOSITORY, file);
      return !fs.existsSync(source) || !fs.readFileSync(source, "utf8").includes(name);
    });
    assert.deepEqual(missing, []);
  });
}
