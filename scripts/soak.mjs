// `npm run soak -- [--minutes N] [--seed S] [--chapter-seconds N] [--handlers N]`: sets up, then runs a daemon under load while
// things go wrong around it. Exits with 1, and the seed, when books do not balance or memory or open files grow.
import path from "node:path";
import { pathToFileURL } from "node:url";
import { root, setupOrExit } from "./setup.mjs";

await setupOrExit();
const main = path.join(root, "dist", "test", "soak", "main.js");
process.argv[1] = main;
await import(pathToFileURL(main).href);
