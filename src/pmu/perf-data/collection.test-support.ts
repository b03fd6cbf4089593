/** For tests: recordings with what perf says of them, from test/fixtures/perf-data and from a larger collection. */

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gunzipSync } from "node:zlib";
import { RECORD } from "../abi.js";
import { FEATURE, USER_RECORD } from "./format.js";

const root = new URL("../../../../", import.meta.url);

export const DEMO = fileURLToPath(new URL("recordings/demo.perf.data", root));
export const FIXTURES = fileURLToPath(new URL("test/fixtures/perf-data/", root));
/** A collection of public recordings, not part of the repository. */
export const COLLECTION = process.env.NMID_PERF_DATA ?? fileURLToPath(new URL("../shared/perf-data/", root));
export const MALFORMED = join(COLLECTION, "malformed");
export const skipCollection = existsSync(COLLECTION)
  ? false
  : `no collection of recordings at ${COLLECTION}; NMID_PERF_DATA names another place`;

/** X.records.json, those members that are compared. */
export interface ExpectedRecords {
  readonly mode: "file" | "pipe";
  readonly golden_cmd: string;
  readonly features: readonly string[];
  /** By record type; PERF_RECORD_ is left out. */
  readonly walker_counts: Readonly<Record<string, number>>;
  readonly attrs: readonly {
    readonly type: number;
    readonly size: number;
    readonly config: string;
    readonly period: number;
    readonly sample_type_raw: string;
    readonly read_format: string;
    readonly flags: string;
    readonly branch_sample_type?: string;
  }[];
  readonly samples_by_event: Readonly<Record<string, number>>;
  readonly aux?: readonly {
    readonly size: number;
    readonly aux_offset: number;
    readonly idx: number;
    readonly tid: number;
    readonly cpu: number;
    readonly sha256: string;
  }[];
}

export interface CollectedRecording {
  readonly name: string;
  readonly file: string;
  readonly expected: ExpectedRecords;
  /** Lines of `perf script`. */
  readonly script: readonly string[];
}

export function recordingsIn(folder: string): CollectedRecording[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .filter((file) => file.endsWith(".perf.data"))
    .map((file) => {
      const name = file.slice(0, -".perf.data".length);
      const at = (suffix: string): string => join(folder, name + suffix);
      const expected: ExpectedRecords = JSON.parse(readFileSync(at(".records.json"), "utf8"));
      const script = gunzipSync(readFileSync(at(".script.txt.gz")))
        .toString()
        .split("\n");
      return { name, file: at(".perf.data"), expected, script };
    });
}

/** The collection's names of record types, where they are not perf's. */
const TYPE_NAME = new Map<number, string>([
  ...Object.entries(RECORD).map(([name, type]): [number, string] => [type, name]),
  ...Object.entries(USER_RECORD).map(([name, type]): [number, string] => [type, name]),
  [USER_RECORD.HEADER_ATTR, "ATTR"],
  [USER_RECORD.HEADER_FEATURE, "FEATURE"],
]);

export function countsByName(counts: Uint32Array): Record<string, number> {
  const named: Record<string, number> = {};
  for (const [type, count] of counts.entries()) if (count > 0) named[TYPE_NAME.get(type) ?? String(type)] = count;
  return named;
}

/** Of names in the collection, those that are features. */
export function knownFeatures(names: readonly string[]): string[] {
  return names.filter((name) => Object.hasOwn(FEATURE, name)).sort();
}
