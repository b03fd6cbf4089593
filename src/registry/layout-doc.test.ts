/** docs/handler-table.md against the code: outside readers are written from that page alone. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, it } from "node:test";
import {
  CAPACITY_MAX,
  DISPATCH_TIME_BUCKETS,
  DISPATCHERS_MAX,
  dispatcherAt,
  FILTER_FLAG,
  type Field,
  GENERATION_MAX,
  handlerId,
  LAYOUT_VERSION,
  LINE_BYTES,
  LOSS_REASONS,
  MAGIC,
  packState,
  STATE,
  slotAt,
  tableLayout,
} from "./layout.js";

const page = readFileSync(new URL("../../../docs/handler-table.md", import.meta.url), "utf8");

interface LayoutJson {
  readonly header: readonly Field[];
  readonly slots: { readonly fields: readonly Field[] };
  readonly dispatchers: { readonly fields: readonly Field[] };
}

const json = JSON.parse(new TextDecoder().decode(tableLayout(1, 1).json)) as LayoutJson;

/** What stands below a heading, up to the next one. */
function section(heading: string): string {
  const start = page.indexOf(`\n${heading}\n`);
  assert.ok(start >= 0, `the page has no heading "${heading}"`);
  const body = page.slice(start + heading.length + 2);
  const end = body.search(/\n#+ /);
  return end < 0 ? body : body.slice(0, end);
}

/** The rows of the table below `heading` whose first column is `first`, by column. */
function rows(heading: string, first: string): Record<string, string>[] {
  const lines = section(heading).split("\n");
  const at = lines.findIndex((line) => line.startsWith("|") && line.split("|")[1].trim() === first);
  assert.ok(at >= 0, `"${heading}" has no table of ${first}`);
  const cells = (line: string): string[] =>
    line
      .slice(1, -1)
      .split("|")
      .map((cell) => cell.trim());
  const columns = cells(lines[at]);
  const end = lines.findIndex((line, i) => i > at && !line.startsWith("|"));
  return lines.slice(at + 2, end < 0 ? undefined : end).map((line) => {
    const values = cells(line);
    assert.equal(values.length, columns.length, line);
    return Object.fromEntries(columns.map((column, i) => [column, values[i]]));
  });
}

function documentedFields(heading: string): Field[] {
  return rows(heading, "offset").map(({ offset, field, type, count }) => ({
    name: field,
    offset: Number(offset),
    type: type as Field["type"],
    count: Number(count),
  }));
}

function pairs(heading: string, key: string, value: string, first = key): Record<string, number> {
  return Object.fromEntries(rows(heading, first).map((row) => [row[key], Number(row[value])]));
}

/** Evaluates a formula of the page: names, whole numbers, + and *. */
function evaluate(formula: string, values: Readonly<Record<string, number>>): number {
  const term = (text: string): number =>
    text.split("*").reduce((product, factor) => {
      const name = factor.trim();
      const value = /^\d+$/.test(name) ? Number(name) : values[name];
      assert.notEqual(value, undefined, `${formula}: what is ${name}?`);
      return product * value;
    }, 1);
  return formula.split("+").reduce((sum, text) => sum + term(text), 0);
}

describe("docs/handler-table.md", () => {
  it("names every field with its offset, type and count", () => {
    assert.deepEqual(documentedFields("## Header"), json.header);
    assert.deepEqual(documentedFields("## Slot"), json.slots.fields);
    assert.deepEqual(documentedFields("## Dispatcher block"), json.dispatchers.fields);
  });

  it("says who writes each field, and in which states a slot's fields are valid", () => {
    for (const heading of ["## Header", "## Slot", "## Dispatcher block"]) {
      for (const row of rows(heading, "offset")) {
        assert.match(row["written by"], /^(daemon, at start|registrars|delivery|dispatcher d)/, row.field);
        assert.notEqual(row.meaning, "", row.field);
      }
    }
    for (const row of rows("## Slot", "offset")) {
      const states = row["valid in"].split(",")[0];
      assert.ok(states === "all" || states in STATE, `${row.field} is valid in ${states}`);
    }
  });

  it("computes where slots and dispatcher blocks are as the code does", () => {
    const formulas = new Map(
      rows("## The file", "place").map(({ place, offset }) => [place, offset.replaceAll("`", "")]),
    );
    const stride = /`slot_stride` is `([^`]+)`/.exec(page)?.[1] ?? "";
    for (const [capacity, dispatchers] of [
      [1, 1],
      [256, 3],
      [CAPACITY_MAX, DISPATCHERS_MAX],
    ]) {
      const layout = tableLayout(capacity, dispatchers);
      assert.equal(evaluate(stride, { dispatchers }), layout.slotStride);
      for (const [i, d] of [
        [0, 0],
        [capacity - 1, dispatchers - 1],
      ]) {
        const values = { slots_at: layout.slotsAt, slot_stride: layout.slotStride, capacity, dispatchers, i, d };
        const at = (place: string): number => evaluate(formulas.get(place) ?? "", values);
        assert.equal(at("slot i"), slotAt(layout, i));
        assert.equal(at("dispatcher block d of slot i"), dispatcherAt(layout, i, d));
        assert.equal(at("end of the file"), layout.bytes);
      }
    }
  });

  it("knows the code's constants", () => {
    assert.deepEqual(pairs("### States", "state", "value"), { ...STATE });
    assert.deepEqual(pairs("### Filter flags", "flag", "bit value"), { ...FILTER_FLAG });
    assert.deepEqual(
      rows("### Losses", "index").map(({ index, reason }) => [Number(index), reason]),
      [...LOSS_REASONS.entries()],
    );
    assert.deepEqual(pairs("## The file", "limit", "value"), {
      capacity: CAPACITY_MAX,
      dispatchers: DISPATCHERS_MAX,
      generation: GENERATION_MAX,
    });
    const states = section("### States");
    assert.match(states, /`generation << 3 \| state`/);
    assert.equal(packState(5, STATE.DRAINING), (5 << 3) | 3);
    assert.match(states, new RegExp(`\`generation \\* ${handlerId(1, 0)} \\+ slot index\``));
    assert.equal(handlerId(7, 3), 7 * CAPACITY_MAX + 3);
    assert.ok(page.includes(`**layout version ${LAYOUT_VERSION}**`));
    assert.ok(section("## Reading it").includes(`Not ${LAYOUT_VERSION}: stop`));
    assert.ok(page.includes(`\`${MAGIC}\``));
    assert.ok(page.includes(`cache line (${LINE_BYTES} bytes)`));
    assert.ok(section("## Reading it").includes(`${tableLayout(1, 1).jsonAt}, the header's`));
    assert.equal(json.dispatchers.fields.find(({ name }) => name === "dispatch_time")?.count, DISPATCH_TIME_BUCKETS);
  });
});
