/**
 * Samples made in advance: a block of PERF_RECORD_SAMPLE whose times are still 0. A generator copies runs of it into the
 * ring and patches the times, which costs a tenth of making each record.
 */
import { CPUMODE, RECORD, SAMPLE } from "../abi.js";

export const SYNTHETIC_SAMPLE_TYPE =
  SAMPLE.IDENTIFIER | SAMPLE.IP | SAMPLE.TID | SAMPLE.TIME | SAMPLE.CPU | SAMPLE.PERIOD;

/** Words (4 bytes) of a sample of SYNTHETIC_SAMPLE_TYPE up to PERIOD; a callchain follows. */
const WORD = { TYPE: 0, MISC_SIZE: 1, ID: 2, IP: 4, PID: 6, TID: 7, TIME: 8, CPU: 10, PERIOD: 12, FIXED: 14 } as const;

/** Where a generator patches the time, low word first. */
export const TIME_WORD = WORD.TIME;

const BLOCK_SAMPLES = 1024;

/** enum perf_callchain_context */
const CONTEXT_KERNEL = 2n ** 64n - 128n;
const CONTEXT_USER = 2n ** 64n - 512n;
const CALLCHAIN_MIN = 4;
const CALLCHAIN_MAX = 16;
const CALLCHAIN_WORDS_MAX = (1 + 2 + CALLCHAIN_MAX) * 2;

export interface BlockOptions {
  /** Uniform in [0, 1). */
  readonly random: () => number;
  readonly id: bigint;
  readonly cpu: number;
  readonly period: number;
  readonly callchain: boolean;
  readonly excludeUser: boolean;
  readonly excludeKernel: boolean;
}

export interface SampleBlock {
  readonly bytes: Uint8Array;
  /** Where sample i starts, in words; one element more than samples, so that the next one tells its length. */
  readonly starts: Uint32Array;
  readonly count: number;
}

/** A workload of a few dozen threads that spends its time in a few functions, one of them hot. */
export function buildSampleBlock(options: BlockOptions): SampleBlock {
  const { random } = options;
  const count = options.excludeUser && options.excludeKernel ? 0 : BLOCK_SAMPLES;
  const workload = buildWorkload(random);
  const words = new Uint32Array(count * (WORD.FIXED + (options.callchain ? CALLCHAIN_WORDS_MAX : 0)));
  const longs = new DataView(words.buffer);
  const starts = new Uint32Array(count + 1);
  let at = 0;
  for (let i = 0; i < count; i++) {
    starts[i] = at;
    const inKernel = options.excludeUser || (!options.excludeKernel && random() < KERNEL_SHARE);
    const task = pick(workload.tasks, random);
    const ip = addressIn(inKernel ? workload.kernel : workload.user, random);
    words[at + WORD.TYPE] = RECORD.SAMPLE;
    longs.setBigUint64((at + WORD.ID) * 4, options.id, true);
    longs.setBigUint64((at + WORD.IP) * 4, ip, true);
    words[at + WORD.PID] = task.pid;
    words[at + WORD.TID] = task.tid;
    words[at + WORD.CPU] = options.cpu;
    longs.setBigUint64((at + WORD.PERIOD) * 4, BigInt(options.period), true);
    let next = at + WORD.FIXED;
    if (options.callchain) {
      const chain = buildCallchain(ip, inKernel, options.excludeUser, workload, random);
      for (const entry of [BigInt(chain.length), ...chain]) {
        longs.setBigUint64(next * 4, entry, true);
        next += 2;
      }
    }
    words[at + WORD.MISC_SIZE] = (inKernel ? CPUMODE.KERNEL : CPUMODE.USER) | (((next - at) * 4) << 16);
    at = next;
  }
  starts[count] = at;
  return { bytes: new Uint8Array(words.buffer, 0, at * 4), starts, count };
}

const KERNEL_SHARE = 0.25;
const HOT_SHARE = 0.4;
const FUNCTION_BYTES = 512;
const KERNEL_TEXT = 0xffffffff81000000n;
const USER_TEXT = 0x0000000000401000n;
const PROCESSES = 24;
const THREADS_MAX = 4;
const PID_FIRST = 2000;

interface Task {
  readonly pid: number;
  readonly tid: number;
}

interface Workload {
  readonly tasks: readonly Task[];
  /** Where functions start; the first is the hot one. */
  readonly user: readonly bigint[];
  readonly kernel: readonly bigint[];
}

function buildWorkload(random: () => number): Workload {
  const tasks: Task[] = [];
  let next = PID_FIRST;
  for (let process = 0; process < PROCESSES; process++) {
    const pid = next;
    const threads = 1 + Math.floor(random() * THREADS_MAX);
    for (let thread = 0; thread < threads; thread++) tasks.push({ pid, tid: next++ });
  }
  const functions = (text: bigint, count: number): bigint[] =>
    Array.from({ length: count }, () => text + BigInt(Math.floor(random() * 4096) * FUNCTION_BYTES));
  return { tasks, user: functions(USER_TEXT, 32), kernel: functions(KERNEL_TEXT, 16) };
}

function addressIn(functions: readonly bigint[], random: () => number): bigint {
  const start = random() < HOT_SHARE ? (functions[0] as bigint) : pick(functions, random);
  return start + BigInt(Math.floor(random() * FUNCTION_BYTES));
}

/** Innermost first, each part behind the marker of its context, as the kernel writes them. */
function buildCallchain(
  ip: bigint,
  inKernel: boolean,
  kernelOnly: boolean,
  { user, kernel }: Workload,
  random: () => number,
): bigint[] {
  const depth = CALLCHAIN_MIN + Math.floor(random() * (CALLCHAIN_MAX - CALLCHAIN_MIN + 1));
  const kernelDepth = kernelOnly ? depth : inKernel ? Math.ceil(depth / 2) : 0;
  const chain: bigint[] = [];
  for (let i = 0; i < depth; i++) {
    const fromKernel = i < kernelDepth;
    if (i === 0 || i === kernelDepth) chain.push(fromKernel ? CONTEXT_KERNEL : CONTEXT_USER);
    chain.push(i === 0 ? ip : addressIn(fromKernel ? kernel : user, random));
  }
  return chain;
}

function pick<T>(list: readonly T[], random: () => number): T {
  return list[Math.floor(random() * list.length)] as T;
}
