/**
 * Which samples a user may be shown who may see its own processes only. A sample is shown when its process was seen to be
 * the user's after it was taken, and has not become another in between; of a process that had privilege before, when it was
 * seen to be the user's before, too. docs/policy.md says why that is enough.
 *
 * Looks are dear (process-owner.ts), so that they are bounded: what cannot be looked at in time is not shown.
 */
import { BATCH_SAMPLES_MAX, type BatchIndex, EVENTS_MAX } from "../../pmu/record.js";
import type { RingReader } from "../../pmu/ring.js";
import type { IdentityWatch } from "./identity-watch.js";
import type { OwnerLookup } from "./process-owner.js";

/** Plain data: crosses from the main thread to the dispatchers. */
export interface OwnerSpec {
  /** At least one. */
  readonly uids: readonly number[];
  /** The group that the processes must be of; null: any, as long as it is one. */
  readonly gid: number | null;
}

/** The same for all that may see the same; empty for those who see everything. */
export function ownerKey(owner: OwnerSpec | null | undefined): string {
  return owner ? `${[...new Set(owner.uids)].sort((a, b) => a - b).join(",")}/${owner.gid ?? "any"}` : "";
}

const NOBODY = -1;
/** Who is not the user's stays so, but for an exec, which is told, and for rare programs that ask to be seen. */
const NOBODY_TTL_NS = 10_000_000_000;
const KNOWN_MAX = 65_536;
/** Looks a second, and how many may have been saved up. */
export const LOOKS_PER_SECOND = 2000;
export const LOOKS_MAX = 500;
const NS_PER_SECOND = 1_000_000_000;

interface Known {
  readonly pid: number;
  uid: number;
  gid: number;
  /** When the look began, and since when without a break it has said the same. */
  seenNs: number;
  sinceNs: number;
  hadPrivilege: boolean;
}

export class Ownership {
  readonly #watch: IdentityWatch;
  readonly #lookup: OwnerLookup;
  readonly #now: () => number;
  /** By tid. */
  readonly #known = new Map<number, Known>();
  /** Of the batch's samples; NOBODY: shown to none. */
  readonly #uid = new Float64Array(BATCH_SAMPLES_MAX);
  readonly #gid = new Float64Array(BATCH_SAMPLES_MAX);
  /** The batch whose samples of an event are judged. */
  readonly #judged = new Int32Array(EVENTS_MAX).fill(-1);
  #batch = 0;
  #looks = LOOKS_MAX;
  #looksNs = 0;

  constructor(watch: IdentityWatch, lookup: OwnerLookup, now: () => number) {
    this.#watch = watch;
    this.#lookup = lookup;
    this.#now = now;
  }

  /** Another batch: nothing of it is judged yet. */
  nextBatch(): void {
    this.#batch = (this.#batch + 1) | 0;
  }

  /** Whether the owner may be shown sample `i`. */
  shows(owner: OwnerSpec, batch: BatchIndex, ring: RingReader, i: number): boolean {
    if (this.#judged[batch.event[i]] !== this.#batch) this.#judge(batch, ring, batch.event[i]);
    return mayBeShown(owner, this.#uid[i], this.#gid[i]);
  }

  /** All samples of the event: what is known of their threads is brought up to date first, then the rings are read. */
  #judge(batch: BatchIndex, ring: RingReader, event: number): void {
    this.#judged[event] = this.#batch;
    // What has changed is looked at anew.
    this.settle();
    for (let i = 0; i < batch.count; i++) {
      if (batch.event[i] === event) this.look(batch.pid[i], tidOf(batch, ring, i), batch.time[i]);
    }
    this.settle();
    for (let i = 0; i < batch.count; i++) {
      if (batch.event[i] !== event) continue;
      const known = this.#ownerAt(batch.pid[i], tidOf(batch, ring, i), batch.time[i]);
      this.#uid[i] = known?.uid ?? NOBODY;
      this.#gid[i] = known?.gid ?? NOBODY;
    }
  }

  /** Sees to it that the thread has been looked at after `timeNs`, if that is worth it. `settle` comes after all looks. */
  look(pid: number, tid: number, timeNs: number): void {
    // The idle task, and the kernel's own mappings.
    if (pid === 0 || pid === 0xffff_ffff) return;
    const sameSinceNs = this.#watch.sameSinceNs(pid);
    const known = this.#known.get(tid);
    if (known !== undefined && known.pid === pid && known.seenNs >= sameSinceNs) {
      if (known.uid !== NOBODY ? known.seenNs >= timeNs : this.#now() - known.seenNs < NOBODY_TTL_NS) return;
    }
    const nowNs = this.#now();
    if (!this.#mayLook(nowNs)) return;
    const owner = this.#lookup(pid, tid);
    const uid = owner?.uid ?? NOBODY;
    const gid = owner?.gid ?? NOBODY;
    const isSame =
      known !== undefined &&
      known.pid === pid &&
      known.uid === uid &&
      known.gid === gid &&
      known.sinceNs >= sameSinceNs;
    if (this.#known.size >= KNOWN_MAX) this.#known.clear();
    this.#known.set(tid, {
      pid,
      uid,
      gid,
      seenNs: nowNs,
      // After the look: what it saw was so then.
      sinceNs: isSame ? known.sinceNs : this.#now(),
      hadPrivilege: owner?.hadPrivilege ?? true,
    });
  }

  #mayLook(nowNs: number): boolean {
    const gained = Math.floor(((nowNs - this.#looksNs) * LOOKS_PER_SECOND) / NS_PER_SECOND);
    if (gained > 0) {
      this.#looks = Math.min(LOOKS_MAX, this.#looks + gained);
      this.#looksNs = nowNs;
    }
    if (this.#looks === 0) return false;
    this.#looks--;
    return true;
  }

  /** Reads what has changed up to now, the time of the looks included. */
  settle(): void {
    this.#watch.scan();
  }

  /** Whether the owner may be told what the thread did at `timeNs`. */
  tells(owner: OwnerSpec, pid: number, tid: number, timeNs: number): boolean {
    const known = this.#ownerAt(pid, tid, timeNs);
    return known !== null && mayBeShown(owner, known.uid, known.gid);
  }

  #ownerAt(pid: number, tid: number, timeNs: number): Known | null {
    const known = this.#known.get(tid);
    if (known === undefined || known.pid !== pid || known.uid === NOBODY) return null;
    const isSame = this.#watch.sameSinceNs(pid) <= timeNs && timeNs <= known.seenNs;
    return isSame && (!known.hadPrivilege || known.sinceNs <= timeNs) ? known : null;
  }
}

function mayBeShown({ uids, gid }: OwnerSpec, uid: number, ofGid: number): boolean {
  return uid !== NOBODY && uids.includes(uid) && (gid === null || gid === ofGid);
}

function tidOf(batch: BatchIndex, ring: RingReader, i: number): number {
  const { pid } = batch.offsetsOf(i);
  return pid < 0 ? 0 : ring.words[(batch.at[i] + pid + 1) & ring.wordMask];
}
