import assert from "node:assert/strict";
import { it } from "node:test";
import { LOSS_REASONS } from "../../registry/layout.js";
import { packageDefinition } from "../grpc/proto.js";
import { lossReasonIndex } from "./books.js";

interface EnumDescriptor {
  readonly type: { readonly value: readonly { readonly name: string; readonly number: number }[] };
}

it("the reasons of losses have the wire's names and numbers, in the table too", () => {
  const { type } = packageDefinition["nmi.v1.LossReason"] as unknown as EnumDescriptor;
  const onWire = Object.fromEntries(type.value.map(({ name, number }) => [name, number]));
  assert.deepEqual(onWire, Object.fromEntries(LOSS_REASONS.map((reason) => [reason, lossReasonIndex(reason)])));
});
