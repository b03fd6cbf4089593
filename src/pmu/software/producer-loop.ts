/** The inside of a producer thread: obey, write what is due, sleep until the next is due or a command comes. */
import { type MessagePort, receiveMessageOnPort, workerData } from "node:worker_threads";

/** Words of the control array. Each has one writer, and they are 64 bytes apart. */
export const CONTROL_WORD = { POSTED: 0, OBEYED: 16 } as const;
export const CONTROL_BYTES = 128;

export const STOP = "stop";

export interface ProducerSetup {
  readonly port: MessagePort;
  readonly control: Int32Array<SharedArrayBuffer>;
  readonly data: unknown;
}

export function producerSetup(): ProducerSetup {
  return workerData as ProducerSetup;
}

/** `step` writes what is due and returns how long to sleep, in ms; infinity sleeps until the next command. */
export function runProducer<Command>(
  { port, control }: ProducerSetup,
  obey: (command: Command) => void,
  step: () => number,
): void {
  for (;;) {
    // Written by the main thread after it has posted: every command counted here is in the port.
    const posted = Atomics.load(control, CONTROL_WORD.POSTED);
    for (;;) {
      const received = receiveMessageOnPort(port);
      if (received === undefined) break;
      if (received.message === STOP) {
        port.close();
        return;
      }
      obey(received.message as Command);
    }
    // Read by `settle`: what was posted before has taken effect.
    Atomics.store(control, CONTROL_WORD.OBEYED, posted);
    Atomics.notify(control, CONTROL_WORD.OBEYED);
    const sleepMs = step();
    if (sleepMs > 0) Atomics.wait(control, CONTROL_WORD.POSTED, posted, sleepMs);
  }
}
