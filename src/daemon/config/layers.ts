/** A layer is what one place (flags, environment, file, defaults) says, with the origin of each value. */
import type { Problem } from "./errors.js";
import type { Key } from "./schema.js";

export interface RawValue {
  readonly raw: unknown;
  readonly origin: string;
}

export interface Layer {
  readonly values: ReadonlyMap<Key, RawValue>;
  readonly problems: readonly Problem[];
}
