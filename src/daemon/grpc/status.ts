/** One table from the daemon's errors to gRPC statuses. */
import { status } from "@grpc/grpc-js";
import { UnknownPeerError } from "../auth/peer.js";
import { BrokerError, type BrokerErrorCode } from "../broker/errors.js";

const STATUS: Record<BrokerErrorCode, status> = {
  INVALID_ARGUMENT: status.INVALID_ARGUMENT,
  NOT_FOUND: status.NOT_FOUND,
  ALREADY_EXISTS: status.ALREADY_EXISTS,
  RESOURCE_EXHAUSTED: status.RESOURCE_EXHAUSTED,
  FAILED_PRECONDITION: status.FAILED_PRECONDITION,
  DEADLINE_EXCEEDED: status.DEADLINE_EXCEEDED,
  UNAVAILABLE: status.UNAVAILABLE,
  PERMISSION_DENIED: status.PERMISSION_DENIED,
  UNAUTHENTICATED: status.UNAUTHENTICATED,
};

export interface CallError {
  readonly code: status;
  readonly details: string;
}

/** Anything but a BrokerError is a fault of the daemon: logged whole, answered without its insides. */
export function toCallError(error: unknown, onFault: (error: Error) => void): CallError {
  if (error instanceof UnknownPeerError) return { code: status.UNAUTHENTICATED, details: error.message };
  if (error instanceof BrokerError) return { code: STATUS[error.code], details: error.message };
  onFault(error as Error);
  return { code: status.INTERNAL, details: "internal error: the daemon's log says more." };
}
