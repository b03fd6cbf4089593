/**
 * What the daemon tells systemd of itself: sd_notify(3)'s datagrams. Outside of systemd, where NOTIFY_SOCKET is not set,
 * nothing is sent.
 */
import { closeFd, sendToUnix, unixDatagramSocket } from "../../pmu/ffi.js";
import type { Environment } from "../config/environment.js";

/** Sends one datagram; false when the receiver's queue is full. Throws when there is no receiver. */
export type SendDatagram = (message: string) => boolean;

export interface NotifierOptions {
  readonly send: SendDatagram;
  /** CLOCK_MONOTONIC. */
  readonly nowUs: () => bigint;
  /** A manager that cannot be reached: told once until it can be again. The daemon goes on without it. */
  readonly onProblem: (error: Error) => void;
}

/** A manager that does not read holds nobody up: what it must not miss is sent again after this long. */
const RETRY_MS = 100;
/** systemd takes 16 KiB; `systemctl status` shows one line. */
const STATUS_CHARACTERS_MAX = 1000;

export class Notifier {
  readonly #options: NotifierOptions | null;
  /** In order; watchdog messages are never among them. */
  readonly #unsent: string[] = [];
  #retry: NodeJS.Timeout | null = null;
  #unreachable = false;

  /** null: there is no manager. */
  constructor(options: NotifierOptions | null) {
    this.#options = options;
  }

  /** Started, or done with a reload. */
  ready(status: string): void {
    this.#tell(`READY=1\n${statusLine(status)}`);
  }

  reloading(): void {
    if (this.#options === null) return;
    this.#tell(`RELOADING=1\nMONOTONIC_USEC=${this.#options.nowUs()}\nSTATUS=Reloading the configuration`);
  }

  status(status: string): void {
    this.#tell(statusLine(status));
  }

  stopping(): void {
    this.#tell("STOPPING=1\nSTATUS=Stopping: streams are given what they are owed");
  }

  /** Everything is alive. One that finds the manager's queue full is not sent again: the next is soon enough. */
  alive(status: string): void {
    if (this.#unsent.length === 0) this.#send(`WATCHDOG=1\n${statusLine(status)}`);
  }

  #tell(message: string): void {
    if (this.#options === null) return;
    this.#unsent.push(message);
    this.#flush();
  }

  #flush(): void {
    while (this.#unsent.length > 0) {
      if (!this.#send(this.#unsent[0])) {
        this.#retry ??= setTimeout(() => {
          this.#retry = null;
          this.#flush();
        }, RETRY_MS).unref();
        return;
      }
      this.#unsent.shift();
    }
  }

  /** False when it has to be sent again. */
  #send(message: string): boolean {
    if (this.#options === null) return true;
    try {
      const sent = this.#options.send(message);
      this.#unreachable = false;
      return sent;
    } catch (error) {
      if (!this.#unreachable) this.#options.onProblem(error as Error);
      this.#unreachable = true;
      return true;
    }
  }
}

function statusLine(status: string): string {
  // One variable a line: what ends lines would begin another variable.
  return `STATUS=${status.replace(/\s*[\p{Cc}\u2028\u2029]+\s*/gu, " ").slice(0, STATUS_CHARACTERS_MAX)}`;
}

/** For the process: what NOTIFY_SOCKET names, or nobody. `onProblem` as in NotifierOptions. */
export function notifierFor(env: Environment, onProblem: (error: Error) => void): Notifier {
  const name = env.NOTIFY_SOCKET;
  if (!name) return new Notifier(null);
  if (!/^[/@]./.test(name)) {
    onProblem(new Error(`NOTIFY_SOCKET ${JSON.stringify(name)} is neither a path nor an abstract socket`));
    return new Notifier(null);
  }
  return new Notifier({
    send: (message) => sendDatagram(name, message),
    nowUs: () => process.hrtime.bigint() / 1000n,
    onProblem: ({ message }) =>
      onProblem(new Error(`the service manager cannot be told anything: ${message} (${name})`)),
  });
}

/** With a socket each: there is one in many seconds, and a manager that was restarted is found again. */
function sendDatagram(name: string, message: string): boolean {
  const fd = unixDatagramSocket();
  try {
    return sendToUnix(fd, name, Buffer.from(message));
  } finally {
    closeFd(fd);
  }
}
