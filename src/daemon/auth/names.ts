/** Users and groups by name, as this machine knows them. */
import { execFileSync } from "node:child_process";

/** null: there is none of that name. */
export interface Names {
  uid(name: string): number | null;
  gid(name: string): number | null;
}

const GETENT_MS_MAX = 5000;
/** getent(1): a key was not found. */
const NOT_FOUND = 2;

/** What getent(1) says, which asks whatever nsswitch.conf names. Throws where it cannot be asked. */
export const systemNames: Names = {
  uid: (name) => idOf("passwd", name),
  gid: (name) => idOf("group", name),
};

function idOf(database: "passwd" | "group", name: string): number | null {
  try {
    // A name is no option, whatever it begins with.
    const line = execFileSync("getent", ["--", database, name], {
      encoding: "utf8",
      timeout: GETENT_MS_MAX,
      stdio: ["ignore", "pipe", "ignore"],
    });
    const [found, , id] = line.split("\n")[0].split(":");
    return found === name && /^\d+$/.test(id) ? Number(id) : null;
  } catch (error) {
    if ((error as { readonly status?: unknown }).status === NOT_FOUND) return null;
    throw error;
  }
}
