/** Services of others' making, behind a question that is asked before each call. */
import type {
  Server,
  ServerUnaryCall,
  ServerWritableStream,
  ServiceDefinition,
  sendUnaryData,
  UntypedHandleCall,
  UntypedServiceImplementation,
} from "@grpc/grpc-js";
import { toCallError } from "./status.js";

/** Throws BrokerError where the call may not be made. */
export type MayCall = (call: object, rpc: string) => void;

/** Whatever is added to it answers only whom `mayCall` lets. */
export function guardedServer(
  server: Pick<Server, "addService">,
  mayCall: MayCall,
  onFault: (error: Error) => void,
): Pick<Server, "addService"> {
  return {
    addService: (definition: ServiceDefinition, implementation: UntypedServiceImplementation) => {
      const methods = Object.entries(definition).map(([name, { path, responseStream }]) => {
        // grpc-js takes an implementation under either name.
        const { originalName = name } = definition[name];
        const handle = implementation[name] ?? implementation[originalName];
        const rpc = path.replace(/^\//, "");
        return [name, responseStream ? stream(handle, rpc) : unary(handle, rpc)] as const;
      });
      server.addService(definition, Object.fromEntries(methods));
    },
  };

  function stream(handle: UntypedHandleCall, rpc: string): UntypedHandleCall {
    return (call: ServerWritableStream<unknown, unknown>) => {
      try {
        mayCall(call, rpc);
      } catch (error) {
        call.emit("error", toCallError(error, onFault));
        return;
      }
      (handle as (call: object) => void)(call);
    };
  }

  function unary(handle: UntypedHandleCall, rpc: string): UntypedHandleCall {
    return (call: ServerUnaryCall<unknown, unknown>, callback: sendUnaryData<unknown>) => {
      try {
        mayCall(call, rpc);
      } catch (error) {
        callback(toCallError(error, onFault));
        return;
      }
      (handle as (call: object, callback: sendUnaryData<unknown>) => void)(call, callback);
    };
  }
}
