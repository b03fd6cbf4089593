import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { type Admitted, type PeerLimits, PeerTable, type Refusal, TokenBucket } from "./limits.js";

const SECOND = 1e9;

describe("a token bucket", () => {
  it("gives its burst at once, and after that as many a second as it should", () => {
    const bucket = new TokenBucket(5, 2, 0);
    const taken = (nowNs: number): number => {
      let count = 0;
      while (bucket.take(nowNs)) count++;
      return count;
    };
    assert.equal(taken(0), 5);
    assert.equal(taken(0.4 * SECOND), 0);
    assert.equal(taken(0.5 * SECOND), 1, "what came before is not lost");
    assert.equal(taken(2 * SECOND), 3);
    assert.equal(bucket.isFull(3 * SECOND), false);
    assert.equal(taken(1000 * SECOND), 5, "never more than the burst");
    assert.equal(bucket.isFull(2000 * SECOND), true);
  });
});

function table(change: Partial<PeerLimits> = {}, clock = { ns: 0 }): PeerTable {
  const limits = { connectionsMax: 4, connectionsPerPeerMax: 3, streamsPerPeerMax: 2, requestsPerSecondMax: 10 };
  return new PeerTable({ ...limits, ...change }, () => clock.ns);
}

function admitted(answer: Admitted | Refusal): Admitted {
  assert(!("reason" in answer), JSON.stringify(answer));
  return answer;
}

function refusedFor(answer: Admitted | Refusal | null): string {
  assert(answer !== null && "reason" in answer);
  assert.match(answer.detail, /limits\.[a-z_]+: .*raise it\.$/);
  return answer.reason;
}

describe("peers", () => {
  it("have so many connections in all, and so many each", () => {
    const peers = table();
    const [first] = [1, 2, 3].map(() => admitted(peers.admit("uid=1")));
    assert.equal(refusedFor(peers.admit("uid=1")), "connections_of_peer");
    admitted(peers.admit("uid=2"));
    assert.equal(refusedFor(peers.admit("uid=3")), "connections");
    first?.release();
    first?.release();
    assert.equal(peers.connections, 3);
    admitted(peers.admit("uid=1"));
    assert.equal(refusedFor(peers.admit("uid=1")), "connections");
  });

  it("have so many calls open, over all their connections", () => {
    const peers = table();
    const [one, two] = [admitted(peers.admit("uid=1")), admitted(peers.admit("uid=1"))];
    assert.equal(one.openStream(), null);
    assert.equal(two.openStream(), null);
    assert.equal(refusedFor(one.openStream()), "streams_of_peer");
    assert.equal(admitted(peers.admit("uid=2")).openStream(), null, "another peer is not affected");
    two.closeStream();
    assert.equal(one.openStream(), null);
  });

  it("make so many requests a second, and get no more by connecting anew", () => {
    const clock = { ns: 0 };
    const peers = table({ connectionsMax: 100, connectionsPerPeerMax: 100, streamsPerPeerMax: 100 }, clock);
    const one = admitted(peers.admit("uid=1"));
    for (let i = 0; i < 10; i++) assert.equal(one.openStream(), null);
    for (let i = 0; i < 9; i++) admitted(peers.admit("uid=1")).release();
    assert.equal(refusedFor(one.openStream()), "request_rate");
    one.release();
    assert.equal(refusedFor(peers.admit("uid=1")), "request_rate");
    clock.ns += 0.1 * SECOND;
    admitted(peers.admit("uid=1"));
    assert.equal(refusedFor(peers.admit("uid=1")), "request_rate");
  });

  it("are forgotten when they are gone and a new one would be treated alike", () => {
    const clock = { ns: 0 };
    const peers = table({ connectionsMax: 1e6, requestsPerSecondMax: 10 }, clock);
    const spent = admitted(peers.admit("spent"));
    while (spent.openStream() === null) spent.closeStream();
    spent.release();
    clock.ns += SECOND;
    for (let i = 0; i < 5000; i++) {
      clock.ns += SECOND / 100;
      admitted(peers.admit(`10.0.${i >> 8}.${i & 255}`)).release();
    }
    assert(peers.remembered <= 1024, String(peers.remembered));
  });
});
