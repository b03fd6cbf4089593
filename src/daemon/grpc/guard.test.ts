import assert from "node:assert/strict";
import { it } from "node:test";
import { type ServiceDefinition, status, type UntypedServiceImplementation } from "@grpc/grpc-js";
import { BrokerError } from "../broker/errors.js";
import { guardedServer } from "./guard.js";

const method = (name: string, responseStream: boolean) => ({
  path: `/some.Service/${name}`,
  originalName: name.toLowerCase(),
  requestStream: false,
  responseStream,
});
const definition = { One: method("One", false), Many: method("Many", true) } as unknown as ServiceDefinition;

it("a guarded service answers only whom it may, by either name of its methods", () => {
  let added: UntypedServiceImplementation = {};
  const asked: string[] = [];
  let allowed = true;
  const server = guardedServer(
    {
      addService: (_, implementation) => {
        added = implementation;
      },
    },
    (_, rpc) => {
      asked.push(rpc);
      if (!allowed) throw new BrokerError("PERMISSION_DENIED", "no.");
    },
    assert.fail,
  );
  const answered: string[] = [];
  server.addService(definition, {
    one: (_: object, callback: (error: null, answer: object) => void) => callback(null, {}),
    Many: () => answered.push("Many"),
  });
  const call = (name: string): unknown[] => {
    const heard: unknown[] = [];
    const emit = (_: string, error: { code: status }): unknown => heard.push(error.code);
    const handle = added[name] as (call: object, callback: (error: { code: status } | null) => void) => void;
    handle({ emit }, (error) => heard.push(error?.code ?? "answered"));
    return heard;
  };
  assert.deepEqual([call("One"), call("Many"), answered], [["answered"], [], ["Many"]]);
  allowed = false;
  assert.deepEqual([call("One"), call("Many")], [[status.PERMISSION_DENIED], [status.PERMISSION_DENIED]]);
  assert.equal(answered.length, 1);
  assert.deepEqual(new Set(asked), new Set(["some.Service/One", "some.Service/Many"]));
});
