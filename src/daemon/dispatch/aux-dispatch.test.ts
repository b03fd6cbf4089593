import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { IOC, MMAP_PAGE } from "../../pmu/abi.js";
import { viewMemory } from "../../pmu/ffi.js";
import { AUX_AREA_BYTES, openAuxEvent } from "../../pmu/perf/aux-event.js";
import { FakeKernel } from "../../pmu/perf/fake-kernel.test-support.js";
import { addPt, FakePt, PT_TYPE } from "../../pmu/perf/fake-pt.test-support.js";
import { type AuxRingDescriptor, type OpenEvent, PLAIN_ATTR, UNGROUPED } from "../../pmu/source.js";
import { bytesOf } from "../delivery/delivery.test-support.js";
import { SampleMessage } from "../delivery/message.js";
import { ENTRY, REFUSAL } from "../delivery/outbox.js";
import { brokerService } from "../grpc/proto.js";
import { AUX_PIECE_BYTES_MAX, AUX_TURN_BYTES } from "./aux-dispatch.js";
import { type DispatcherFixture, format, openDispatcher, type TestHandler, write } from "./dispatcher.test-support.js";
import { DISPATCHER_STAT } from "./stats.js";

const PT = 1;
const QUEUE_BYTES = 8 * 1024 * 1024;

interface Piece {
  readonly event_index: number;
  readonly cpu: number;
  readonly tid: number;
  readonly offset: number;
  readonly truncated: boolean;
  readonly data: Buffer;
}

interface Fixture extends DispatcherFixture {
  readonly kernel: FakeKernel;
  readonly event: OpenEvent;
  readonly pt: FakePt;
  /** Drains until nothing is left. */
  drainAll(): void;
}

/** A CPU's ring with samples of event 0 beside a PT event, enabled. */
function setUp(t: { after(done: () => void): void }): Fixture {
  const kernel = new FakeKernel();
  kernel.cpus = [0];
  addPt(kernel);
  const rate = { kind: "period", period: 1 } as const;
  const event = openAuxEvent(kernel, [0], {
    ...PLAIN_ATTR,
    ...UNGROUPED,
    ...{ name: "intel_pt//", key: "pt", type: PT_TYPE, rate, periodUnit: "events", hasAux: true },
  });
  t.after(() => event.close());
  const enable = (fd: number): void => kernel.ioctl(fd, IOC.ENABLE, 0);
  const fixture = openDispatcher([0], 65_536, 0, 2 ** 25, { view: viewMemory, enable });
  fixture.dispatcher.addFormats(0, [format([1])]);
  fixture.dispatcher.addAux(PT, event.auxRings as AuxRingDescriptor[]);
  event.enable();
  const pt = new FakePt(kernel.openEvents[0]);
  const drainAll = (): void => {
    do fixture.dispatcher.drain();
    while (fixture.dispatcher.moreAux);
  };
  return Object.assign(fixture, { kernel, event, pt, drainAll });
}

const traced = (count: number, seed = 0): Buffer =>
  Buffer.from(Array.from({ length: count }, (_, i) => (i * 7 + seed) % 251));

/** Takes what waits: AUX data, and numbers of samples. */
function take({ reader }: TestHandler): (Piece | number)[] {
  const taken: (Piece | number)[] = [];
  const message = new SampleMessage();
  while (reader.peek()) {
    const { kind, event, samples, segment } = reader.entry;
    if (kind !== ENTRY.AUX) {
      taken.push(samples);
      reader.drop();
      continue;
    }
    reader.take();
    message.begin();
    message.add(reader.segments, segment);
    message.finishAux(event);
    const { aux } = brokerService.Subscribe.responseDeserialize(Buffer.from(bytesOf(message))) as unknown as {
      aux: Piece;
    };
    assert.equal(aux.data.length, samples);
    taken.push(aux);
    message.release();
  }
  return taken;
}

const pieces = (handler: TestHandler): Piece[] => take(handler).filter((part) => typeof part !== "number");
const joined = (of: readonly Piece[]): Buffer => Buffer.concat(of.map(({ data }) => data));

describe("AUX data", () => {
  it("come to those who asked for them, beside samples to those who want samples", (t) => {
    const fixture = setUp(t);
    const both = fixture.add({ events: [{ armed: 0 }, { armed: PT }], aux: true });
    const trace = fixture.add({ events: [{ armed: PT }], aux: true });
    const without = fixture.add({ events: [{ armed: 0 }, { armed: PT }] });
    const samples = fixture.add({ events: [{ armed: 0 }], aux: true });
    write(fixture, [{ time: 1 }, { time: 2 }]);
    fixture.pt.trace(traced(100));
    assert.ok(fixture.dispatcher.drain());
    const [piece] = pieces(trace);
    const { event_index, cpu, tid, offset, truncated, data } = piece;
    assert.deepEqual(
      { event_index, cpu, tid, offset, truncated },
      { event_index: 0, cpu: 0, tid: 71, offset: 0, truncated: false },
    );
    assert.deepEqual(data, traced(100));
    const [count, second] = take(both);
    assert.equal(count, 2);
    assert.deepEqual(second, { ...piece, event_index: 1 });
    assert.deepEqual(take(without), [2]);
    assert.deepEqual(take(samples), [2]);
    assert.equal(fixture.stats.words[DISPATCHER_STAT.AUX_BYTES], 100);
  });

  it("come in pieces, in order, over the area's end, and more than a turn takes in turns", (t) => {
    const fixture = setUp(t);
    const handler = fixture.add({ events: [{ armed: PT }], aux: true, regionBytes: QUEUE_BYTES });
    const received: Piece[] = [];
    const sent: Buffer[] = [];
    for (let i = 0; i < 5; i++) {
      sent.push(traced(AUX_TURN_BYTES + 40_000, i));
      assert.equal(fixture.pt.trace(sent[i]), sent[i].length);
      fixture.dispatcher.drain();
      assert.ok(fixture.dispatcher.moreAux);
      fixture.drainAll();
      received.push(...pieces(handler));
    }
    assert.ok(joined(received).equals(Buffer.concat(sent)));
    assert.ok(received.every(({ data }) => data.length <= AUX_PIECE_BYTES_MAX));
    let at = 0;
    for (const { offset, data } of received) {
      assert.equal(offset, at);
      at += data.length;
    }
    assert.ok(at > AUX_AREA_BYTES, "the area was gone round");
  });

  it("tell where the area was full, and the event is enabled again when there is room", (t) => {
    const fixture = setUp(t);
    const handler = fixture.add({ events: [{ armed: PT }], aux: true, regionBytes: QUEUE_BYTES });
    const [kept, lost] = [fixture.pt.trace(traced(AUX_AREA_BYTES - 8)), fixture.pt.trace(traced(64))];
    assert.deepEqual([kept, lost], [AUX_AREA_BYTES - 8, 8]);
    assert.equal(fixture.pt.event.enabled, false, "as the kernel does it");
    fixture.drainAll();
    const received = pieces(handler);
    assert.deepEqual(
      received.map(({ truncated }) => truncated),
      received.map((_, i) => i === received.length - 1),
    );
    assert.ok(fixture.pt.event.enabled);
    assert.equal(fixture.pt.trace(traced(64)), 64);
    assert.equal(fixture.stats.words[DISPATCHER_STAT.AUX_TRUNCATED], 1);
  });

  it("do not enable an event that is meant to be disabled", (t) => {
    const fixture = setUp(t);
    fixture.pt.trace(traced(64));
    fixture.event.disable();
    fixture.drainAll();
    assert.equal(fixture.pt.event.enabled, false);
    assert.equal(fixture.pt.aux.isDrained(), true);
  });

  it("that a full queue cannot take are lost to its handler alone, and counted in bytes", (t) => {
    const fixture = setUp(t);
    const slow = fixture.add({ events: [{ armed: PT }], aux: true });
    const fast = fixture.add({ events: [{ armed: PT }], aux: true, regionBytes: QUEUE_BYTES });
    const sent = traced(500_000);
    fixture.pt.trace(sent);
    fixture.drainAll();
    assert.ok(joined(pieces(fast)).equals(sent));
    const got = joined(pieces(slow));
    assert.ok(got.length > 0 && got.equals(sent.subarray(0, got.length)));
    assert.equal(slow.reader.auxLost(0, REFUSAL.QUEUE_FULL), sent.length - got.length);
    assert.equal(fast.reader.auxLost(0, REFUSAL.QUEUE_FULL), 0);
    assert.ok(fixture.pt.aux.isDrained(), "nobody waits for the slow one");
  });

  it("that no area holds are counted and never read", (t) => {
    const fixture = setUp(t);
    const handler = fixture.add({ events: [{ armed: PT }], aux: true });
    fixture.pt.trace(traced(64));
    fixture.drainAll();
    take(handler);
    fixture.pt.tell(0, 64);
    fixture.pt.tell(2 ** 50, 64);
    fixture.pt.tell(64, 2 * AUX_AREA_BYTES);
    fixture.drainAll();
    assert.deepEqual(take(handler), []);
    assert.equal(fixture.stats.words[DISPATCHER_STAT.AUX_CORRUPT_BYTES], 128 + 2 * AUX_AREA_BYTES);
    fixture.pt.trace(traced(32, 9));
    fixture.drainAll();
    assert.deepEqual(joined(pieces(handler)), traced(32, 9), "what follows is read");
  });

  it("wait for aux_head, which the kernel publishes behind the record, and not for ever", (t) => {
    const fixture = setUp(t);
    const handler = fixture.add({ events: [{ armed: PT }], aux: true });
    fixture.pt.tell(0, 48);
    fixture.dispatcher.drain();
    assert.ok(fixture.dispatcher.moreAux);
    assert.deepEqual(take(handler), []);
    Atomics.store(fixture.pt.control, MMAP_PAGE.AUX_HEAD / 8, 48n);
    fixture.dispatcher.drain();
    assert.equal(joined(pieces(handler)).length, 48);
    fixture.pt.tell(48, 16);
    fixture.dispatcher.drain();
    assert.ok(fixture.dispatcher.moreAux);
    fixture.clock.nowNs += 3e9;
    fixture.dispatcher.drain();
    assert.equal(fixture.dispatcher.moreAux, false);
    assert.equal(fixture.stats.words[DISPATCHER_STAT.AUX_CORRUPT_BYTES], 16);
  });

  it("that the kernel had no room to tell of are given back, so that the area does not stay full", (t) => {
    const fixture = setUp(t);
    Atomics.store(fixture.pt.control, MMAP_PAGE.AUX_HEAD / 8, BigInt(AUX_AREA_BYTES));
    fixture.pt.event.enabled = false;
    fixture.dispatcher.drain();
    assert.equal(fixture.stats.words[DISPATCHER_STAT.AUX_UNTOLD_BYTES], 0, "a record may be on its way");
    fixture.dispatcher.drain();
    assert.equal(fixture.stats.words[DISPATCHER_STAT.AUX_UNTOLD_BYTES], AUX_AREA_BYTES);
    assert.equal(Atomics.load(fixture.pt.control, MMAP_PAGE.AUX_TAIL / 8), BigInt(AUX_AREA_BYTES));
    assert.ok(fixture.pt.event.enabled);
  });

  it("come once where a dispatcher dies and another goes on in the middle of a run", (t) => {
    const fixture = setUp(t);
    const handler = fixture.add({ events: [{ armed: PT }], aux: true, regionBytes: QUEUE_BYTES });
    const sent = traced(AUX_TURN_BYTES + 40_000);
    fixture.pt.trace(sent);
    fixture.dispatcher.drain();
    const before = pieces(handler);
    // It died behind the last piece's offer, before the bytes were given back.
    const last = before.at(-1) as Piece;
    Atomics.store(fixture.pt.control, MMAP_PAGE.AUX_TAIL / 8, BigInt(last.offset));
    fixture.replace([], (next) => {
      next.addFormats(0, [format([1])]);
      next.addAux(PT, fixture.event.auxRings as AuxRingDescriptor[]);
    });
    fixture.drainAll();
    assert.ok(joined([...before, ...pieces(handler)]).equals(sent));
  });

  it("of an area that is given the address of one that is no more are no repetition of that one's", (t) => {
    const fixture = setUp(t);
    const handler = fixture.add({ events: [{ armed: PT }], aux: true });
    const rings = fixture.event.auxRings as AuxRingDescriptor[];
    for (const seed of [1, 2]) {
      fixture.pt.trace(traced(100, seed));
      fixture.drainAll();
      assert.deepEqual(
        pieces(handler).map(({ offset, data }) => [offset, data]),
        [[0, traced(100, seed)]],
      );
      fixture.dispatcher.removeAux(rings);
      fixture.pt.aux.skipTo(0);
      fixture.dispatcher.addAux(PT, rings);
    }
  });

  it("of CPUs that another dispatcher has are left to it", (t) => {
    const fixture = setUp(t);
    const [ring] = fixture.event.auxRings as AuxRingDescriptor[];
    fixture.dispatcher.removeAux([ring]);
    fixture.dispatcher.addAux(PT, [{ ...ring, cpu: 1 }]);
    assert.deepEqual(fixture.dispatcher.auxRings, []);
  });
});
