import assert from "node:assert/strict";
import { test } from "node:test";
import type { z } from "zod";
import { packageDefinition } from "../grpc/proto.js";
import { savedHandlerSchema } from "./saved-handler.js";

/** As @grpc/proto-loader has a message: a DescriptorProto. */
interface Descriptor {
  readonly field: readonly { readonly name: string }[];
  readonly oneofDecl: readonly { readonly name: string }[];
}

/** With `oneofs: true` a oneof is a key, too, that says which of its fields is set. */
function keysOfMessage(name: string): string[] {
  const { field, oneofDecl } = (packageDefinition[`nmi.v1.${name}`] as unknown as { readonly type: Descriptor }).type;
  return [...field, ...oneofDecl].map((part) => part.name).sort();
}

test("of a request everything is kept that a client can say", () => {
  const { request } = savedHandlerSchema.shape;
  const { events, filter, queue } = request.shape;
  const schemas: Readonly<Record<string, z.ZodObject>> = {
    RegisterRequest: request,
    EventSpec: events.element,
    Filter: filter.unwrap(),
    Queue: queue.unwrap(),
  };
  for (const [message, { shape }] of Object.entries(schemas)) {
    assert.deepEqual(Object.keys(shape).sort(), keysOfMessage(message), message);
  }
});
