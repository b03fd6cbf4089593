import { status } from "@grpc/grpc-js";

/** Every failure of this library that a user can meet. `code` is stable; `message` is for people. */
export class NmiError extends Error {
  override readonly name: string = "NmiError";
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

/** The daemon refused a call or could not be reached. `code` is the name of the gRPC status: NOT_FOUND, UNAVAILABLE. */
export class RpcError extends NmiError {
  override readonly name = "RpcError";
  readonly method: string;
  /** The daemon's own words. */
  readonly details: string;

  constructor(method: string, code: string, details: string) {
    super(code, `${method}: ${code}: ${details}`);
    this.method = method;
    this.details = details;
  }
}

/** Bytes that are no message of the contract. `code` is MALFORMED_MESSAGE. */
export class MalformedMessageError extends NmiError {
  override readonly name = "MalformedMessageError";
  /** Where in the message, in bytes from its start. */
  readonly offset: number;

  constructor(what: string, offset: number) {
    super("MALFORMED_MESSAGE", `malformed message at byte ${offset}: ${what}`);
    this.offset = offset;
  }
}

/** What grpc-js threw, as an RpcError; this library's own errors and programmer errors pass through. */
export function toRpcError(method: string, error: unknown): unknown {
  if (error instanceof NmiError || !(error instanceof Error) || !("code" in error)) return error;
  const code = typeof error.code === "number" ? status[error.code] : undefined;
  if (code === undefined) return error;
  const details = "details" in error && typeof error.details === "string" ? error.details : error.message;
  return new RpcError(method, code, details);
}
