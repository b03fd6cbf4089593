import assert from "node:assert/strict";
import { describe, it } from "node:test";
import {
  CAPACITY_MAX,
  DISPATCHER,
  DISPATCHERS_MAX,
  dispatcherAt,
  EVENT_WORDS,
  FILTER_FLAG,
  type Field,
  GENERATION_MAX,
  generationOf,
  generationOfId,
  HEADER,
  handlerId,
  LAYOUT_VERSION,
  LINE_BYTES,
  LOSS_REASONS,
  packState,
  SLOT,
  STATE,
  STATE_NAMES,
  slotAt,
  slotOfId,
  stateOf,
  tableLayout,
} from "./layout.js";

interface LayoutJson {
  readonly version: number;
  readonly states: readonly string[];
  readonly header: readonly Field[];
  readonly slots: { readonly stride: number; readonly fields: readonly Field[] };
  readonly dispatchers: { readonly offset: number; readonly stride: number; readonly fields: readonly Field[] };
  readonly lossReasons: readonly string[];
  readonly filterFlags: Readonly<Record<string, number>>;
}

function layoutJson(capacity = 4, dispatchers = 3): LayoutJson {
  return JSON.parse(new TextDecoder().decode(tableLayout(capacity, dispatchers).json)) as LayoutJson;
}

const SIZE = { u32: 4, f64: 8, text: 1 } as const;

function end(field: Field): number {
  return field.offset + SIZE[field.type] * field.count;
}

/** Every field by the name of its writer; an unknown field has no writer and fails the test that asks. */
const WRITERS: Readonly<Record<string, readonly (readonly string[])[]>> = {
  // One inner list a writer; fields that are constant once published may share a line with each other only.
  header: [
    [
      "magic",
      "version",
      "slots_at",
      "json_at",
      "json_bytes",
      "capacity",
      "dispatchers",
      "slot_stride",
      "daemon_pid",
      "started_at",
    ],
    ["list_head"],
    ["high_water"],
  ],
  slots: [
    ["state_generation", "next", "event_mask"],
    ["name", "events", "filter_flags", "queue_max_bytes", "registered_at"],
    ["delivered", "queue_bytes", "losses"],
  ],
  // `running` is polled by removers, so it keeps away from the counters although one thread writes both.
  dispatchers: [
    ["running"],
    [
      "dispatches",
      "matched",
      "queue_full",
      "longest_dispatch_ns",
      "last_dispatch_ns",
      "offered",
      "dispatch_ns_sum",
      "dispatch_time",
      "memory",
    ],
  ],
};

function groups(json: LayoutJson): [string, readonly Field[], number][] {
  return [
    ["header", json.header, tableLayout(4, 3).jsonAt],
    ["slots", json.slots.fields, json.dispatchers.offset],
    ["dispatchers", json.dispatchers.fields, json.dispatchers.stride],
  ];
}

describe("the table's layout", () => {
  it("aligns every field to its size, and lets none overlap or reach beyond its group", () => {
    for (const [group, fields, limit] of groups(layoutJson())) {
      let free = 0;
      for (const field of [...fields].sort((a, b) => a.offset - b.offset)) {
        assert.equal(field.offset % SIZE[field.type], 0, `${group}.${field.name} is not aligned`);
        assert.ok(field.offset >= free, `${group}.${field.name} overlaps the field before it`);
        free = end(field);
      }
      assert.ok(free <= limit, `${group} ends at ${free}, beyond ${limit}`);
    }
  });

  it("names every field once", () => {
    for (const [group, fields] of groups(layoutJson())) {
      const names = fields.map(({ name }) => name);
      assert.equal(new Set(names).size, names.length, `${group}: ${names}`);
    }
  });

  it("keeps words of different writers on different cache lines", () => {
    for (const [group, fields] of groups(layoutJson())) {
      const writers = WRITERS[group];
      const owner = new Map<number, number>();
      for (const field of fields) {
        const writer = writers.findIndex((names) => names.includes(field.name));
        assert.ok(writer >= 0, `${group}.${field.name}: say here who writes it`);
        for (let line = Math.floor(field.offset / LINE_BYTES); line * LINE_BYTES < end(field); line++) {
          assert.equal(owner.get(line) ?? writer, writer, `${group}.${field.name} shares line ${line}`);
          owner.set(line, writer);
        }
      }
    }
    const { slots, dispatchers } = layoutJson();
    for (const bytes of [slots.stride, dispatchers.offset, dispatchers.stride, tableLayout(4, 3).slotsAt]) {
      assert.equal(bytes % LINE_BYTES, 0);
    }
  });

  it("tells outside readers the constants that the code uses", () => {
    const json = layoutJson();
    const byName = (fields: readonly Field[]): Record<string, number> =>
      Object.fromEntries(fields.map(({ name, offset }) => [name.toUpperCase(), offset]));
    assert.deepEqual(byName(json.header), { MAGIC: 0, ...HEADER });
    const { STATE_GENERATION, ...slotFields } = byName(json.slots.fields);
    assert.deepEqual({ STATE: STATE_GENERATION, ...slotFields }, { ...SLOT });
    assert.deepEqual(byName(json.dispatchers.fields), { ...DISPATCHER });
    assert.equal(json.version, LAYOUT_VERSION);
    assert.deepEqual(json.states, [...STATE_NAMES]);
    assert.deepEqual(
      STATE_NAMES.map((name) => STATE[name]),
      [0, 1, 2, 3],
    );
    assert.deepEqual(json.lossReasons, [...LOSS_REASONS]);
    assert.equal(json.slots.fields.find(({ name }) => name === "losses")?.count, LOSS_REASONS.length);
    assert.deepEqual(json.filterFlags, { ...FILTER_FLAG });
    assert.equal(EVENT_WORDS.LOW * 4, SLOT.EVENT_MASK);
    assert.equal(EVENT_WORDS.HIGH, EVENT_WORDS.LOW + 1);
  });

  it("gives every filter flag a bit of its own", () => {
    const flags = Object.values(FILTER_FLAG);
    assert.equal(
      flags.reduce((sum, flag) => sum + flag, 0),
      flags.reduce((mask, flag) => mask | flag, 0),
    );
  });

  it("lays slots and dispatchers out one behind the other, inside the file", () => {
    for (const [capacity, dispatchers] of [
      [1, 1],
      [7, 5],
      [256, DISPATCHERS_MAX],
      [CAPACITY_MAX, 1],
    ]) {
      const layout = tableLayout(capacity, dispatchers);
      const json = layoutJson(capacity, dispatchers);
      assert.ok(layout.jsonAt + layout.json.byteLength <= layout.slotsAt);
      assert.equal(json.slots.stride, layout.slotStride);
      assert.equal(slotAt(layout, 0), layout.slotsAt);
      assert.equal(slotAt(layout, capacity), layout.bytes);
      assert.equal(dispatcherAt(layout, 0, 0), layout.slotsAt + json.dispatchers.offset);
      assert.equal(dispatcherAt(layout, 0, dispatchers), slotAt(layout, 1));
    }
  });

  it("refuses sizes it has no room for", () => {
    for (const capacity of [0, -1, 1.5, Number.NaN, CAPACITY_MAX + 1]) {
      assert.throws(() => tableLayout(capacity, 1), RangeError);
    }
    for (const dispatchers of [0, 2.5, DISPATCHERS_MAX + 1])
      assert.throws(() => tableLayout(1, dispatchers), RangeError);
  });
});

describe("state and generation", () => {
  it("share a signed word without touching each other, up to the last generation", () => {
    for (const generation of [1, 2, 2 ** 28 - 1, 2 ** 28, GENERATION_MAX]) {
      for (const state of Object.values(STATE)) {
        const word = packState(generation, state);
        assert.equal(word, word | 0, "Atomics hand back signed words");
        assert.equal(stateOf(word), state);
        assert.equal(generationOf(word), generation);
      }
    }
  });

  it("make ids that are never 0, stay exact numbers and come apart again", () => {
    for (const generation of [1, 12_345, GENERATION_MAX]) {
      for (const slot of [0, 1, CAPACITY_MAX - 1]) {
        const id = handlerId(generation, slot);
        assert.ok(Number.isSafeInteger(id) && id > 0);
        assert.equal(slotOfId(id), slot);
        assert.equal(generationOfId(id), generation);
      }
    }
  });
});
