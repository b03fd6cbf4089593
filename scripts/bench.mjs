// `npm run bench -- NAME [--json FILE] [--seconds N] [--rounds N]`: sets up, then runs a benchmark of bench/.
import path from "node:path";
import { pathToFileURL } from "node:url";
import { root, setupOrExit } from "./setup.mjs";

await setupOrExit();
const main = path.join(root, "dist", "bench", "main.js");
process.argv[1] = main;
await import(pathToFileURL(main).href);
