/** What a dispatcher sleeps on. */
import { clearEventfd, POLLERR, POLLHUP, POLLIN, poll } from "../../pmu/ffi.js";
import type { RingDescriptor } from "../../pmu/source.js";

/** poll(2) passes over negative fds. */
const IGNORED_BY_POLL = -1;

/** The control fd, and rings that come and go. */
export class PollSet {
  readonly #controlFd: number;
  /** struct pollfd: the control fd's, then one for each ring's place. */
  #pairs: Int32Array;
  /** By place; null where a ring has gone. */
  readonly #rings: (RingDescriptor | null)[] = [];

  constructor(controlFd: number) {
    this.#controlFd = controlFd;
    this.#pairs = Int32Array.of(controlFd, POLLIN);
  }

  add(ring: RingDescriptor): void {
    let place = this.#rings.indexOf(null);
    if (place < 0) {
      place = this.#rings.length;
      const before = this.#pairs;
      this.#pairs = new Int32Array(before.length + 2);
      this.#pairs.set(before);
    }
    this.#rings[place] = ring;
    this.#pairs[2 * (1 + place)] = ring.pollFd;
  }

  remove({ address }: RingDescriptor): void {
    const place = this.#rings.findIndex((ring) => ring?.address === address);
    if (place < 0) return;
    this.#rings[place] = null;
    this.#pairs[2 * (1 + place)] = IGNORED_BY_POLL;
  }

  wait(timeoutMs: number): void {
    const pairs = this.#pairs;
    for (let i = 1; i < pairs.length; i += 2) pairs[i] = POLLIN;
    poll(pairs, pairs.length / 2, timeoutMs);
  }

  clear(): void {
    const pairs = this.#pairs;
    if (pairs[1] >>> 16 !== 0) clearEventfd(this.#controlFd);
    for (const [place, ring] of this.#rings.entries()) {
      if (ring === null) continue;
      const fdAt = 2 * (1 + place);
      const revents = pairs[fdAt + 1] >>> 16;
      // An fd that has hung up stays so: polled on, it would keep the thread awake for good. The ring is still drained.
      if ((revents & (POLLERR | POLLHUP)) !== 0) pairs[fdAt] = IGNORED_BY_POLL;
      else if (ring.pollKind === "eventfd" && revents !== 0) clearEventfd(ring.pollFd);
    }
  }
}
