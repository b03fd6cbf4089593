// `npm run fuzz -- [--minutes N] [--target record|perf-data|events] [--seed N] [--save] [--input FILE]`: sets up, then
// fuzzes what reads bytes and text from outside. Exits with 1, and with an input that fails, when it found one.
import path from "node:path";
import { pathToFileURL } from "node:url";
import { root, setupOrExit } from "./setup.mjs";

await setupOrExit();
const main = path.join(root, "dist", "test", "fuzz", "main.js");
process.argv[1] = main;
await import(pathToFileURL(main).href);
