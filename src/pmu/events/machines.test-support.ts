/** For tests: machines as scripts/record-pmus.mjs writes them down; those but the VM are put together from the kernel's drivers. */
import { readFileSync } from "node:fs";
import { type FileTree, type RecordedTree, recordedFileTree } from "./file-tree.js";
import { type EventHost, openEventHost, type PfmEncoder } from "./resolve.js";

export type MachineName = "intel-hybrid" | "intel-server" | "amd" | "vm";

export const MACHINES: readonly MachineName[] = ["intel-hybrid", "intel-server", "amd", "vm"];

export function filesOf(machine: MachineName): FileTree {
  const url = new URL(`../../../../test/pmus/${machine}.json`, import.meta.url);
  return recordedFileTree(JSON.parse(readFileSync(url, "utf8")) as RecordedTree);
}

export function hostOf(machine: MachineName, pfm?: PfmEncoder): EventHost {
  return openEventHost(filesOf(machine), pfm);
}
