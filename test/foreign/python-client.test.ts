/** A client in another language, from proto/nmi.proto alone, against the real daemon over its Unix socket. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { REPOSITORY, startDaemon } from "../support/daemon.js";

// Debian's own, for which Debian's python3-grpcio is installed; another python3 may come first on PATH.
const PYTHON = "/usr/bin/python3";
const TIMEOUT_MS = 60_000;

interface Status {
  readonly code: string;
  readonly message: string;
}

interface Books {
  readonly matched: number;
  readonly delivered: number;
  readonly lost: number;
}

/** What client.py prints. */
interface Observations {
  readonly health: string | null;
  readonly status: { readonly source: string; readonly default_event: string; readonly pid: number };
  readonly events: readonly string[];
  readonly default_event: string;
  readonly resolved: readonly string[];
  readonly duplicate: Status;
  readonly unknown_event: Status;
  readonly listed: readonly string[];
  readonly stream: {
    readonly kinds: readonly string[];
    readonly source: string;
    readonly received: number;
    readonly batches: number;
    readonly uneven_batches: number;
    readonly sequence_breaks: number;
    readonly lost: number;
    readonly period_sum: number;
    readonly after_end: number;
    readonly next_sequence: number;
    readonly end: Books & { readonly reason: string; readonly period_delivered: number };
    readonly books: Books & { readonly last_sequence: number };
  };
  readonly stale_deregister: Status;
  readonly stale_subscribe: Status;
  readonly listed_afterwards: readonly string[];
}

const run = promisify(execFile);

async function reasonToSkip(): Promise<string | false> {
  if (!fs.existsSync(PYTHON)) return `${PYTHON} is not installed`;
  try {
    await run(PYTHON, ["-c", "import grpc, grpc_tools.protoc"], { timeout: TIMEOUT_MS });
    return false;
  } catch {
    return "Debian's python3-grpcio and python3-grpc-tools are not installed";
  }
}

const skip = await reasonToSkip();

test("a Python client registers, streams and deregisters", { skip, timeout: 2 * TIMEOUT_MS }, async (t) => {
  const stubs = fs.mkdtempSync(path.join(os.tmpdir(), "nmid-stubs-"));
  t.after(() => fs.rmSync(stubs, { recursive: true, force: true }));
  const proto = path.join(REPOSITORY, "proto");
  const outputs = [`--python_out=${stubs}`, `--grpc_python_out=${stubs}`];
  await run(PYTHON, ["-m", "grpc_tools.protoc", `-I${proto}`, ...outputs, "nmi.proto"], { timeout: TIMEOUT_MS });

  const daemon = await startDaemon(t, { args: ["--source", "synthetic:2000"] });
  const script = path.join(REPOSITORY, "test", "foreign", "client.py");
  const { stdout } = await run(PYTHON, [script, stubs, daemon.address], { timeout: TIMEOUT_MS });
  const seen = JSON.parse(stdout) as Observations;
  const { stream } = seen;

  await t.test("status and events", () => {
    assert.equal(seen.status.pid, daemon.pid);
    assert.match(seen.status.source, /synthetic/);
    assert.equal(seen.status.default_event, seen.default_event);
    assert.ok(seen.events.includes(seen.default_event), `${seen.default_event} is not in ${seen.events}`);
    assert.deepEqual(seen.resolved, [seen.default_event]);
  });

  await t.test("the stream runs from started to end", () => {
    assert.equal(stream.kinds[0], "started");
    assert.equal(stream.kinds.at(-1), "end");
    assert.equal(stream.after_end, 0);
    assert.equal(stream.end.reason, "DEREGISTERED");
    assert.equal(stream.source, "synthetic");
  });

  await t.test("columns are even and numbered without an untold gap", () => {
    assert.ok(stream.batches > 0);
    assert.equal(stream.uneven_batches, 0);
    assert.equal(stream.sequence_breaks, 0);
    assert.equal(stream.next_sequence, stream.books.last_sequence);
  });

  await t.test("the books are exact", () => {
    assert.equal(stream.end.matched, stream.end.delivered + stream.end.lost);
    assert.equal(stream.end.delivered, stream.received);
    assert.equal(stream.end.lost, stream.lost);
    assert.equal(stream.end.period_delivered, stream.period_sum);
    const { matched, delivered, lost } = stream.books;
    assert.deepEqual(
      { matched, delivered, lost },
      { matched: stream.end.matched, delivered: stream.received, lost: stream.lost },
    );
  });

  await t.test("refusals carry gRPC's codes", () => {
    assert.equal(seen.duplicate.code, "ALREADY_EXISTS");
    assert.equal(seen.unknown_event.code, "INVALID_ARGUMENT");
    assert.match(seen.unknown_event.message, /no-such-event/);
    assert.equal(seen.stale_deregister.code, "NOT_FOUND");
    assert.equal(seen.stale_subscribe.code, "NOT_FOUND");
  });

  await t.test("the table follows", () => {
    assert.deepEqual(seen.listed, ["python"]);
    assert.deepEqual(seen.listed_afterwards, []);
  });

  await t.test("health", { skip: seen.health === null ? "Python's grpc_health is not installed" : false }, () => {
    assert.equal(seen.health, "SERVING");
  });

  await t.test("SIGTERM ends the daemon cleanly", async () => {
    assert.equal(await daemon.stop(), 0);
  });
});
