import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { status } from "@grpc/grpc-js";
import { BrokerError, type BrokerErrorCode } from "../broker/errors.js";
import { toCallError } from "./status.js";

describe("toCallError", () => {
  it("answers each refusal with gRPC's status of the same name, and its message", () => {
    const codes: BrokerErrorCode[] = [
      "INVALID_ARGUMENT",
      "NOT_FOUND",
      "ALREADY_EXISTS",
      "RESOURCE_EXHAUSTED",
      "FAILED_PRECONDITION",
      "DEADLINE_EXCEEDED",
      "UNAVAILABLE",
    ];
    for (const code of codes) {
      const answer = toCallError(new BrokerError(code, "name: empty"), () => assert.fail("no fault of the daemon"));
      assert.deepEqual(answer, { code: status[code], details: "name: empty" });
    }
  });

  it("reports anything else as a fault, and keeps its insides to itself", () => {
    const faults: Error[] = [];
    const fault = new TypeError("secret is not a function");
    const answer = toCallError(fault, (error) => faults.push(error));
    assert.equal(answer.code, status.INTERNAL);
    assert.doesNotMatch(answer.details, /secret/);
    assert.deepEqual(faults, [fault]);
  });
});
