/** For tests: a dispatcher thread that walks a table over and over and checks at every dispatch that it may be there. */
import { parentPort, workerData } from "node:worker_threads";
import { SlotCounters } from "./counters.js";
import { tableLayout } from "./layout.js";
import { TableWalker } from "./walk.js";
import { AtomicDoorbell, AtomicWords } from "./words.js";

export interface TortureSetup {
  readonly memory: SharedArrayBuffer;
  readonly bell: SharedArrayBuffer;
  /** Word s: the generation that owns slot s, 0 while nobody may be dispatched to there. Then STOP and the results. */
  readonly owners: SharedArrayBuffer;
  readonly capacity: number;
  readonly dispatchers: number;
  readonly dispatcher: number;
}

/** Words of `owners`, behind one for each slot. */
export const TORTURE = { STOP: 0, DISPATCHES: 1, VIOLATIONS: 2, STARTED: 3, WORDS: 4 } as const;

/** Views shared memory as the ArrayBuffer that a mapped file is; Atomics treat both alike. */
export function asMapped(memory: SharedArrayBuffer): ArrayBuffer {
  return memory as unknown as ArrayBuffer;
}

if (parentPort !== null) run(workerData as TortureSetup);

function run({ memory, bell, owners, capacity, dispatchers, dispatcher }: TortureSetup): void {
  const layout = tableLayout(capacity, dispatchers);
  const words = new Int32Array(owners);
  const walker = new TableWalker(new AtomicWords(memory), layout, dispatcher, new AtomicDoorbell(bell));
  const counters = new SlotCounters(asMapped(memory), layout);
  Atomics.add(words, capacity + TORTURE.STARTED, 1);
  const target = {
    dispatch(slot: number, generation: number): void {
      // Long enough for a removal to go wrong meanwhile.
      for (let look = 0; look < 50; look++) {
        if (Atomics.load(words, slot) !== generation) Atomics.add(words, capacity + TORTURE.VIOLATIONS, 1);
      }
      counters.countDispatch(slot, dispatcher, 1, 0, 1, 1);
      Atomics.add(words, capacity + TORTURE.DISPATCHES, 1);
    },
  };
  while (Atomics.load(words, capacity + TORTURE.STOP) === 0) walker.walk(1, 0, target);
}
