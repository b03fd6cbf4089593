import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, it, type TestContext } from "node:test";
import { handlerId, LOSS_REASONS } from "../../registry/layout.js";
import { addHandler, openTable } from "../../registry/table.test-support.js";
import { finalBooks } from "../delivery/carried-books.js";
import { NOTHING_SETTLED } from "../delivery/settled-books.js";
import { BooksFile, booksFileBytes } from "./books-file.js";
import { recover } from "./recover.js";
import { type SavedHandler, STATE_VERSION } from "./saved-handler.js";
import { StateFiles } from "./state-files.js";

const BOOT = "boot";
const S = 1e9;

function open(t: TestContext) {
  const dir = mkdtempSync(join(tmpdir(), "nmid-state-"));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  const reports: string[] = [];
  const report = (message: string, fields: Record<string, unknown>): void => {
    reports.push(`${message} ${JSON.stringify(fields)}`);
  };
  return { dir, files: new StateFiles(dir, report), reports, report };
}

function saved(change: Partial<SavedHandler> = {}): SavedHandler {
  return {
    version: STATE_VERSION,
    bootId: BOOT,
    slot: 0,
    generation: 1,
    peer: "unix",
    terms: { principal: "uid=7", registrant: null, visibility: { kernelAddresses: true, owner: null } },
    registeredAt: 1,
    activeNs: 10 * S,
    source: { kind: "perf", clock: "CLOCK_MONOTONIC" },
    events: 2,
    leaseMs: 5000,
    request: {
      name: "a",
      events: [],
      filter: null,
      fields: [],
      queue: null,
      lease_ms: 5000,
      tasks: false,
      context_switches: false,
      exclusive: false,
      branch_sample_type: 0,
    },
    left: null,
    ...change,
  };
}

/** What a daemon has left that was killed while it had one handler of two events. */
function killed() {
  const table = openTable(4, 2);
  const handle = addHandler(table.table);
  const memory = new ArrayBuffer(booksFileBytes(4));
  const books = BooksFile.format(memory, 4);
  const row = books.row(handle.slot);
  row.begin(handlerId(handle.generation, handle.slot), []);
  row.everSubscribed = true;
  return { ...table, handle, booksMemory: memory, books, row };
}

describe("recover, after a kill", () => {
  it("books what was matched and no stream had taken as lost with the daemon", (t) => {
    const { files, report } = open(t);
    const { memory, counters, booksMemory, books, row } = killed();
    counters.countDispatch(0, 0, 70, 0, 0, 100, 50 * S);
    counters.countDispatch(0, 1, 30, 5, 0, 100, 49 * S);
    row.deliver(0, 40, 400);
    row.deliver(1, 20, 200);
    row.tell(1, "QUEUE_FULL", 5, 50);
    books.aliveNs = 51 * S;
    files.writeHandler(saved());
    const { handlers, generationFloor, wasKilled } = recover(
      files,
      { table: memory, books: booksMemory },
      BOOT,
      report,
    );
    assert.equal(handlers.length, 1);
    assert.deepEqual({ generationFloor, wasKilled }, { generationFloor: 1, wasKilled: true });
    const { left } = handlers[0];
    const final = finalBooks(left.carried);
    assert.deepEqual([final.matched, final.delivered, final.lost, final.sequence], [100, 60, 40, 100]);
    assert.deepEqual(final.losses, [
      { reason: "QUEUE_FULL", count: 5 },
      { reason: "RESTART", count: 35 },
    ]);
    assert.deepEqual(
      final.events.map(({ matched, delivered, lost }) => [matched, delivered, lost]),
      [
        [75, 40, 35],
        [25, 20, 5],
      ],
    );
    assert.equal(left.stoppedNs, 50 * S, "when samples were dispatched last");
    assert.equal(left.leaseEndsNs, 56 * S, "from when the daemon was last at work");
    assert.equal(left.everSubscribed, true);
    // Should this daemon be killed before it has taken the handler up, the next one finds the same.
    const again = recover(files, { table: null, books: null }, BOOT, report);
    assert.deepEqual(again.handlers[0].left, left);
  });

  it("takes what was delivered for matched, where the dispatcher had not come to count it", (t) => {
    const { files, report } = open(t);
    const { memory, booksMemory, row } = killed();
    row.deliver(0, 8, 80);
    row.leaseEndsNs = 77 * S;
    files.writeHandler(saved());
    const [{ left }] = recover(files, { table: memory, books: booksMemory }, BOOT, report).handlers;
    const final = finalBooks(left.carried);
    assert.deepEqual([final.matched, final.delivered, final.lost], [8, 8, 0]);
    assert.equal(left.leaseEndsNs, 77 * S, "it had no stream");
  });

  it("forgets a handler that had been removed", (t) => {
    const { dir, files, report } = open(t);
    const { memory, booksMemory, table, handle } = killed();
    table.beginRemoval(handle);
    table.release(handle);
    files.writeHandler(saved());
    assert.deepEqual(recover(files, { table: memory, books: booksMemory }, BOOT, report).handlers, []);
    assert.deepEqual(readdirSync(dir), []);
  });

  it("makes do without a table, and with books of another handler, or that are nonsense", (t) => {
    const { files, report } = open(t);
    files.writeHandler(saved({ slot: 3, generation: 9 }));
    const none = recover(files, { table: new ArrayBuffer(64), books: new ArrayBuffer(8) }, BOOT, report);
    assert.equal(none.handlers.length, 1);
    assert.ok(none.generationFloor > 9, "ids that nobody knows of may have been given out");

    files.writeHandler(saved());
    files.removeHandler(3);
    const { memory, booksMemory, row } = killed();
    row.begin(12345, [{ ...NOTHING_SETTLED, delivered: 99 }]);
    const [foreign] = recover(files, { table: memory, books: booksMemory }, BOOT, report).handlers;
    assert.equal(finalBooks(foreign.left.carried).delivered, 0);

    files.writeHandler(saved());
    const lost = LOSS_REASONS.map(() => Number.POSITIVE_INFINITY);
    row.begin(handlerId(1, 0), [{ delivered: Number.NaN, periodDelivered: -3, periodLost: 0.5, lost }]);
    row.leaseEndsNs = Number.NaN;
    const [nonsense] = recover(files, { table: memory, books: booksMemory }, BOOT, report).handlers;
    assert.equal(finalBooks(nonsense.left.carried).matched, 0);
    assert.ok(Number.isFinite(nonsense.left.leaseEndsNs));
  });
});

describe("the state directory", () => {
  it("forgets what is of before the last boot", (t) => {
    const { dir, files, report, reports } = open(t);
    files.writeHandler(saved({ bootId: "another" }));
    files.writeDaemon({ version: STATE_VERSION, bootId: "another", generationFloor: 17 });
    const { handlers, generationFloor } = recover(files, { table: null, books: null }, BOOT, report);
    assert.deepEqual(handlers, []);
    assert.equal(generationFloor, 17);
    assert.deepEqual(readdirSync(dir), ["daemon.json"]);
    assert.match(reports.join("\n"), /before the last boot/);
  });

  it("is its owner's alone, and holds whole files only", (t) => {
    const { dir, files } = open(t);
    files.writeHandler(saved());
    assert.equal(statSync(join(dir, "0.json")).mode & 0o777, 0o600);
    writeFileSync(join(dir, "1.json.tmp"), '{"ver');
    assert.deepEqual(files.readHandlers(), [saved()]);
    assert.deepEqual(readdirSync(dir), ["0.json"]);
  });

  it("sets aside what it cannot trust, and says which and why", (t) => {
    const { dir, files, reports } = open(t);
    const { request, ...rest } = saved();
    const bad: Record<string, unknown> = {
      "0.json": "{",
      "1.json": { ...saved({ slot: 1 }), version: 99 },
      "2.json": saved({ slot: 1 }),
      "3.json": { ...rest, slot: 3, request: { ...request, filter: { pids: ["1"] } } },
      "4.json": { ...saved({ slot: 4 }), left: { everSubscribed: true, leaseEndsNs: 1, stoppedNs: 1, carried: {} } },
      "5.json": saved({ slot: 5, generation: 2 ** 40 }),
    };
    for (const [name, value] of Object.entries(bad)) {
      writeFileSync(join(dir, name), typeof value === "string" ? value : JSON.stringify(value));
    }
    assert.deepEqual(files.readHandlers(), []);
    assert.equal(reports.length, 6, reports.join("\n"));
    assert.match(reports[1], /1\.json\.corrupt.*version/);
    assert.match(reports[2], /it is of slot 1/);
    assert.deepEqual(
      readdirSync(dir).sort(),
      Object.keys(bad).map((name) => `${name}.corrupt`),
    );
  });

  it("takes up what a daemon has left that knew fewer reasons for losses", (t) => {
    const { files } = open(t);
    const lost = LOSS_REASONS.slice(0, -1).map((_, i) => i);
    const settled = [0, 1].map(() => ({ delivered: 1, periodDelivered: 1, periodLost: 0, lost }));
    const carried = { settled, untold: [], gaps: [] };
    files.writeHandler(saved({ left: { everSubscribed: true, leaseEndsNs: 1, stoppedNs: 1, carried } }));
    const [handler] = files.readHandlers();
    assert.deepEqual(handler.left?.carried.settled[0].lost, [...lost, 0]);
  });

  it("does not write through a link that somebody has put there", (t) => {
    const { dir, files } = open(t);
    const precious = join(dir, "precious");
    writeFileSync(precious, "precious");
    symlinkSync(precious, join(dir, "0.json.tmp"));
    files.writeHandler(saved());
    assert.equal(readFileSync(precious, "utf8"), "precious");
    assert.deepEqual(files.readHandlers(), [saved()]);
  });
});
