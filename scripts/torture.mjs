// `npm run torture -- [--seconds N] [--seed S] [--dispatchers D] [--registrars R] [--capacity C]`: sets up, then hammers
// one handler table with threads and reads it from outside. Exits with 1, and the seed, when a relation did not hold.
import path from "node:path";
import { pathToFileURL } from "node:url";
import { root, setupOrExit } from "./setup.mjs";

await setupOrExit();
const main = path.join(root, "dist", "test", "torture", "main.js");
process.argv[1] = main;
await import(pathToFileURL(main).href);
