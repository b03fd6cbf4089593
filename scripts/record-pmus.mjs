#!/usr/bin/env node
// Records what this machine's sysfs and tracefs say of its PMUs and tracepoints, as src/pmu/events/file-tree.ts reads it:
// directories are objects, files their text, null what may not be read.
//   node scripts/record-pmus.mjs [SUBSYSTEM...] > test/pmus/MACHINE.json
// SUBSYSTEMs are the tracepoints to record, all of whose events are taken; by default none.
import { readdirSync, readFileSync, statSync } from "node:fs";

const DEVICES = "/sys/bus/event_source/devices";
const TRACING = "/sys/kernel/tracing";
const PMU_ENTRIES = ["type", "cpus", "cpumask", "format", "events", "caps"];
const TRACEPOINT_ENTRIES = ["id", "format"];

function record(path, wanted) {
  try {
    if (!statSync(path).isDirectory()) return readFileSync(path, "utf8").trimEnd();
    const names = readdirSync(path).filter((name) => wanted === undefined || wanted.includes(name));
    return Object.fromEntries(names.sort().map((name) => [name, record(`${path}/${name}`)]));
  } catch (error) {
    if (error.code === "EACCES" || error.code === "EPERM") return null;
    throw error;
  }
}

function list(path) {
  try {
    return readdirSync(path).sort();
  } catch {
    return [];
  }
}

function tracepoints(subsystem) {
  const path = `${TRACING}/events/${subsystem}`;
  const events = list(path).filter((name) => statSync(`${path}/${name}`).isDirectory());
  return Object.fromEntries(events.map((event) => [event, record(`${path}/${event}`, TRACEPOINT_ENTRIES)]));
}

const devices = Object.fromEntries(list(DEVICES).map((name) => [name, record(`${DEVICES}/${name}`, PMU_ENTRIES)]));
const subsystems = process.argv.slice(2);
const tracing =
  subsystems.length > 0
    ? { kernel: { tracing: { events: Object.fromEntries(subsystems.map((name) => [name, tracepoints(name)])) } } }
    : {};
const tree = { sys: { bus: { event_source: { devices } }, ...tracing } };
process.stdout.write(`${JSON.stringify(tree, null, 2)}\n`);
