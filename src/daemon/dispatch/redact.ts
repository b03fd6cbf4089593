/**
 * What handlers are given that may not see kernel addresses: they would undo the kernel's address space randomization.
 * On x86-64 the kernel's half of the address space is where the topmost bit is set.
 */
import type { BatchIndex } from "../../pmu/record.js";
import { isUserMode } from "../../pmu/record.js";
import type { Selection } from "./encode.js";

/** enum perf_callchain_context, low words: markers are the last 4,095 numbers of 64 bits. */
const CONTEXT = { USER: -512 >>> 0, USER_DEFERRED: -640 >>> 0, GUEST_USER: -2560 >>> 0 } as const;
const CONTEXT_MAX = -4095 >>> 0;
const ALL_ONES = 0xffff_ffff;

/** By the high word of an address. */
export function isKernelHalf(high: number): boolean {
  return high > 0x7fff_ffff;
}

/** Samples taken in the kernel, and whatever else points there, get 0 for an instruction pointer. */
export function redactIps(
  out: Uint32Array,
  ip: number,
  { cpumode }: BatchIndex,
  { sample }: Selection,
  from: number,
  to: number,
): void {
  for (let k = from, w = ip; k < to; k++, w += 2) {
    if (isUserMode(cpumode[sample[k]]) && !isKernelHalf(out[w + 1])) continue;
    out[w] = 0;
    out[w + 1] = 0;
  }
}

/** Each of the `count` addresses at word `at`, `stride` words apart, becomes 0 where it is one of the kernel's. */
export function redactAddresses(out: Uint32Array, at: number, count: number, stride: number): void {
  for (let k = 0, w = at; k < count; k++, w += stride) {
    if (!isKernelHalf(out[w + 1])) continue;
    out[w] = 0;
    out[w + 1] = 0;
  }
}

/**
 * The entries of the callchain of `count` entries at word `at` of a ring that are user space's, its markers included.
 * They are written at word `to` of `out`, unless that is null. Returns how many there are.
 */
export function userFrames(
  words: Uint32Array,
  mask: number,
  at: number,
  count: number,
  out: Uint32Array | null,
  to: number,
): number {
  let kept = 0;
  // What comes before any marker is judged by its address alone.
  let isUser = true;
  for (let j = 0; j < count; j++) {
    const low = words[(at + 2 * j) & mask];
    const high = words[(at + 2 * j + 1) & mask];
    if (high === ALL_ONES && low >= CONTEXT_MAX) {
      isUser = low === CONTEXT.USER || low === CONTEXT.USER_DEFERRED || low === CONTEXT.GUEST_USER;
      if (!isUser) continue;
    } else if (!isUser || isKernelHalf(high)) continue;
    if (out !== null) {
      out[to + 2 * kept] = low;
      out[to + 2 * kept + 1] = high;
    }
    kept++;
  }
  return kept;
}
