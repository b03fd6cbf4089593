/** Refusals a client can meet, with the gRPC status each maps to. The message names the field and the remedy. */
export type BrokerErrorCode =
  | "INVALID_ARGUMENT"
  | "NOT_FOUND"
  | "ALREADY_EXISTS"
  | "RESOURCE_EXHAUSTED"
  | "FAILED_PRECONDITION"
  | "DEADLINE_EXCEEDED"
  | "UNAVAILABLE"
  | "PERMISSION_DENIED"
  | "UNAUTHENTICATED";

export class BrokerError extends Error {
  override readonly name = "BrokerError";
  readonly code: BrokerErrorCode;
  constructor(code: BrokerErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}
