/** Failures of the environment that a user can meet, with stable codes. The message names the remedy. */
export type PmuErrorCode =
  | "EVENT_SYNTAX"
  | "EVENT_UNKNOWN"
  | "EVENT_UNSUPPORTED"
  | "RATE_INVALID"
  | "SHAPE_UNSUPPORTED"
  | "PERMISSION"
  | "RESOURCE"
  | "RECORDING_UNREADABLE"
  | "SYSCALL";

export class PmuError extends Error {
  override readonly name = "PmuError";
  readonly code: PmuErrorCode;
  constructor(code: PmuErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}
