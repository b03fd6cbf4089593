/** Stops one thread of another process where it is, as a debugger does: SIGSTOP would stop them all. Needs python3. */
import fs from "node:fs";
import path from "node:path";
import type { TestContext } from "node:test";
import { hasCommand, startProcess } from "./process.js";

/** PTRACE_SEIZE, PTRACE_INTERRUPT, and waiting with __WALL, of linux/ptrace.h and linux/wait.h. It ends with the thread. */
const HOLD = `
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
tid = int(sys.argv[1])
for request in (0x4206, 0x4207):
    if libc.ptrace(request, tid, None, None) != 0:
        sys.exit(os.strerror(ctypes.get_errno()))
os.waitpid(tid, 0x40000000)
print("held", flush=True)
os.waitpid(tid, 0x40000000)
`;

export const canHoldThreads = (): boolean => hasCommand("python3");

/** Resolves when the thread of that name stands still, which it does until its process is ended. */
export async function holdThread(t: TestContext, pid: number, name: string): Promise<void> {
  const tasks = path.join("/proc", String(pid), "task");
  const tid = fs
    .readdirSync(tasks)
    .find((task) => fs.readFileSync(path.join(tasks, task, "comm"), "utf8").trim() === name);
  if (tid === undefined) throw new Error(`process ${pid} has no thread ${name}`);
  await startProcess(t, "python3", ["-c", HOLD, tid]).line(/^held$/);
}
