// A lock between processes of one host: a directory that holds one file, named after its owner.
import fs from "node:fs";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";

const pollMs = 100;

/** A process id can be used again, together with the process's start time it cannot. Undefined when it is gone. */
function identify(pid) {
  try {
    const stat = fs.readFileSync(`/proc/${pid}/stat`, "utf8");
    // The name in field 2 may hold blanks and parentheses; field 22 (start time) is the 20th after it.
    return `${pid}-${stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19]}`;
  } catch {
    return undefined;
  }
}

/** Renaming a directory onto an empty one is atomic and onto a full one fails: so exactly one process gets the lock. */
function tryAcquire(lockDir, owner) {
  const candidate = `${lockDir}.${owner}`;
  fs.mkdirSync(candidate, { recursive: true });
  fs.writeFileSync(path.join(candidate, owner), "");
  try {
    fs.renameSync(candidate, lockDir);
    return true;
  } catch (error) {
    fs.rmSync(candidate, { recursive: true, force: true });
    if (error.code !== "ENOTEMPTY" && error.code !== "EEXIST") throw error;
    return false;
  }
}

/**
 * Empties the lock if its owner died; returns whether it did. By the owner's name: a new owner's file is never touched.
 */
function breakStale(lockDir) {
  const stale = fs.readdirSync(lockDir).filter((owner) => identify(owner.split("-")[0]) !== owner);
  for (const owner of stale) fs.rmSync(path.join(lockDir, owner), { force: true });
  return stale.length > 0;
}

/** Runs `work` while holding the lock, after waiting for whoever else holds it. Resolves to what `work` returns. */
export async function withLock(lockDir, work) {
  const owner = identify(process.pid);
  let told = false;
  while (!tryAcquire(lockDir, owner)) {
    if (breakStale(lockDir)) continue;
    if (!told) process.stderr.write(`setup: waiting for the owner of ${lockDir}\n`);
    told = true;
    await delay(pollMs);
  }
  try {
    return await work();
  } finally {
    fs.rmSync(path.join(lockDir, owner), { force: true });
  }
}
