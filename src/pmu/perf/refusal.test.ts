import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { TYPE } from "../abi.js";
import { PmuError, type PmuErrorCode } from "../errors.js";
import { PLAIN_ATTR, type ResolvedEvent, UNGROUPED } from "../source.js";
import { type ErrnoName, errno, FakeKernel, type OpenedAttr } from "./fake-kernel.test-support.js";
import { explainMapFailure, explainOpenFailure } from "./refusal.js";

function explain(name: ErrnoName, kernel = new FakeKernel()): PmuError {
  const error = explainOpenFailure(errno("perf_event_open", name), "event cycles", kernel);
  assert.ok(error instanceof PmuError);
  assert.ok(error.message.startsWith("event cycles: "), error.message);
  assert.equal((error.cause as Error).name, "Errno");
  return error;
}

function permission(paranoid: number | null, perfmon: boolean): string {
  const kernel = new FakeKernel();
  kernel.paranoidLevel = paranoid;
  kernel.perfmon = perfmon;
  const { code, message } = explain("EACCES", kernel);
  assert.equal(code, "PERMISSION");
  return message;
}

describe("explainOpenFailure: permission", () => {
  it("without CAP_PERFMON asks for it, at every paranoid level", () => {
    for (const level of [1, 2, 3, 4]) {
      const message = permission(level, false);
      assert.match(message, new RegExp(`kernel\\.perf_event_paranoid is ${level} and the daemon lacks CAP_PERFMON`));
      assert.match(message, /AmbientCapabilities=CAP_PERFMON/);
      assert.match(message, /sysctl kernel\.perf_event_paranoid=0/);
    }
  });

  it("with CAP_PERFMON at 3 asks for 2, as on stock Debian kernels", () => {
    const message = permission(3, true);
    assert.match(message, /perf_event_paranoid is 3/);
    assert.match(message, /sysctl kernel\.perf_event_paranoid=2`/);
    assert.doesNotMatch(message, /lacks CAP_PERFMON/);
  });

  it("with CAP_PERFMON at 2 or lower looks elsewhere", () => {
    for (const level of [2, -1]) {
      const message = permission(level, true);
      assert.match(message, /seccomp/);
      assert.doesNotMatch(message, /lacks|sysctl/);
    }
  });

  it("says when the setting is hidden", () => {
    assert.match(permission(null, false), /perf_event_paranoid cannot be read and the daemon lacks CAP_PERFMON/);
    assert.match(permission(null, true), /cannot be read and CAP_PERFMON is held/);
  });
});

describe("explainOpenFailure: the rest", () => {
  it("has a code for each, and names the error it came from", () => {
    const codes: [ErrnoName, PmuErrorCode][] = [
      ["EPERM", "PERMISSION"],
      ["ENOENT", "EVENT_UNSUPPORTED"],
      ["ENODEV", "EVENT_UNSUPPORTED"],
      ["EOPNOTSUPP", "EVENT_UNSUPPORTED"],
      ["EINVAL", "EVENT_UNSUPPORTED"],
      ["EBUSY", "RESOURCE"],
      ["EMFILE", "RESOURCE"],
      ["ENFILE", "RESOURCE"],
      ["ENOMEM", "RESOURCE"],
      ["E2BIG", "EVENT_UNSUPPORTED"],
      ["ENOSPC", "RESOURCE"],
      ["EIO", "SYSCALL"],
    ];
    for (const [name, code] of codes) {
      const error = explain(name);
      assert.equal(error.code, code, name);
      assert.ok(error.message.includes(name), error.message);
    }
  });

  it("leaves errors that are not the kernel's as they are", () => {
    const error = new TypeError("a bug");
    assert.equal(explainOpenFailure(error, "x", new FakeKernel()), error);
    assert.equal(explainMapFailure(error, 512, new FakeKernel()), error);
  });
});

describe("explainMapFailure", () => {
  it("takes EPERM for the locked-memory limits, and names every way out", () => {
    const error = explainMapFailure(errno("mmap", "EPERM"), 512, new FakeKernel()) as PmuError;
    assert.equal(error.code, "RESOURCE");
    for (const word of ["512 KiB", "perf_event_mlock_kb", "RLIMIT_MEMLOCK", "CAP_IPC_LOCK", "ring_kib"]) {
      assert.ok(error.message.includes(word), word);
    }
  });

  it("explains other errors as those of an open", () => {
    const error = explainMapFailure(errno("mmap", "ENOMEM"), 512, new FakeKernel()) as PmuError;
    assert.equal(error.code, "RESOURCE");
    assert.match(error.message, /^mapping a ring of 512 KiB: .*ENOMEM/);
  });
});

describe("explainOpenFailure: what the kernel would take instead", () => {
  const event: ResolvedEvent = {
    ...PLAIN_ATTR,
    ...UNGROUPED,
    name: "pmu/x/",
    key: "x",
    type: 20,
    rate: { kind: "frequency", hz: 99 },
    periodUnit: "events",
  };

  /** The kernel takes what `takes` says, and refuses the rest with EINVAL. */
  function said(takes: (attr: OpenedAttr) => boolean, of: Partial<ResolvedEvent> = {}): string {
    const kernel = new FakeKernel();
    kernel.refuse = (call, { attr }) => (call === "open" && !takes(attr) ? "EINVAL" : null);
    const attempt = { event: { ...event, ...of }, cpu: 0 };
    const { message } = explainOpenFailure(errno("perf_event_open", "EINVAL"), "event pmu/x/", kernel, attempt);
    assert.deepEqual(kernel.openFds, []);
    return message;
  }

  it("tells PMUs that only count from those that reject the event", () => {
    assert.match(
      said(({ samplePeriod }) => samplePeriod === 0n),
      /the PMU only counts the event, it cannot sample it/,
    );
    assert.match(
      said(({ samplePeriod, excludeKernel }) => samplePeriod === 0n && !excludeKernel, { excludeKernel: true }),
      /only counts the event, and in all modes: .* takes no modifiers/,
    );
    assert.match(
      said(() => false),
      /the kernel rejects this combination/,
    );
  });

  it("tells a precision that is too much, groups and breakpoints", () => {
    assert.match(
      said(({ preciseIp }) => preciseIp === 0, { preciseIp: 3 }),
      /a precision of 3: give fewer p, or P/,
    );
    assert.match(
      said(() => false, { members: [event] }),
      /cannot count this group at once/,
    );
    assert.match(
      said(() => false, { type: TYPE.BREAKPOINT }),
      /x86 watches for w, rw or x/,
    );
  });
});
