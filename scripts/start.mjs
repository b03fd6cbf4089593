// `npm start -- FLAGS`: sets up, then becomes the daemon. The same process, so that signals reach it directly.
import path from "node:path";
import { pathToFileURL } from "node:url";
import { root, setupOrExit } from "./setup.mjs";

await setupOrExit();
const main = path.join(root, "dist", "src", "daemon", "main.js");
process.argv[1] = main;
await import(pathToFileURL(main).href);
