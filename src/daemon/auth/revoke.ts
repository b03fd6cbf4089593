/** Handlers whose peers may not have them any more, since the policy has changed. */
import type { Broker } from "../broker/broker.js";
import type { Authority } from "./authority.js";
import { covers } from "./rights.js";

/** Removes them, as if they had been deregistered with `discard`. Resolves when they are gone. */
export async function revokeHandlers(broker: Broker, authority: Authority): Promise<void> {
  const removals = broker.handlers.map(async ({ id, registrant, visibility, removal }) => {
    if (registrant === null || removal !== null) return;
    const access = authority.access(registrant, "reload");
    if (access.rights.register && access.visibility !== null && covers(access.visibility, visibility)) return;
    access.note(`handler_id: ${id} was registered under another policy and is not allowed any more: it is removed`);
    await broker.deregister(id, 0, true);
  });
  await Promise.all(removals);
}
