// `node scripts/deploy.mjs DESTDIR`: sets up, then puts what runs in production where systemd/nmid.service expects it
// under DESTDIR. Packages are made of the result; it enables and starts nothing.
import fs from "node:fs";
import path from "node:path";
import { root, setupOrExit } from "./setup.mjs";

const LIBRARY = "usr/lib/nmid";
const UNITS = "usr/lib/systemd/system";

/** Files in systemd/ by where they go; what ends in a slash keeps its name. */
const SYSTEMD = [
  ["nmid.service", `${UNITS}/`],
  ["nmid.socket", `${UNITS}/`],
  ["sysusers.d/nmid.conf", "usr/lib/sysusers.d/"],
  ["tmpfiles.d/nmid.conf", "usr/lib/tmpfiles.d/"],
  ["sysctl.d/60-nmid.conf", "usr/lib/sysctl.d/"],
  ["nmid.yaml", "etc/nmid/"],
];

/** Node packages that the daemon and nmictl need, of those that are installed. */
function productionPackages() {
  const lock = JSON.parse(fs.readFileSync(path.join(root, "package-lock.json"), "utf8"));
  return Object.entries(lock.packages)
    .filter(([name, { dev }]) => name !== "" && dev !== true && fs.existsSync(path.join(root, name)))
    .map(([name]) => name);
}

/** Tests, their helpers and source maps stay behind. */
function runs(file) {
  return !/\.(test|test-support)\.js$|\.map$|\.tsbuildinfo$/.test(file);
}

/** Regular files and directories only get the modes that everybody may read. */
function copy(from, to, filter = () => true) {
  const state = fs.statSync(from);
  if (state.isDirectory()) {
    fs.mkdirSync(to, { recursive: true, mode: 0o755 });
    for (const name of fs.readdirSync(from)) {
      // Packages inside packages are listed by themselves.
      if (name !== "node_modules") copy(path.join(from, name), path.join(to, name), filter);
    }
  } else if (filter(from)) {
    fs.mkdirSync(path.dirname(to), { recursive: true, mode: 0o755 });
    fs.copyFileSync(from, to);
    fs.chmodSync(to, state.mode & 0o100 ? 0o755 : 0o644);
  }
}

function link(destination, name, target) {
  const file = path.join(destination, name);
  fs.mkdirSync(path.dirname(file), { recursive: true, mode: 0o755 });
  fs.rmSync(file, { force: true });
  fs.symlinkSync(path.relative(path.dirname(file), path.join(destination, target)), file);
}

/** Idempotent. What is there and belongs to an older tree is removed; /etc is overwritten. */
export function deploy(destination) {
  const library = path.join(destination, LIBRARY);
  fs.rmSync(library, { recursive: true, force: true });
  for (const part of ["package.json", "LICENSE", "proto", "recordings"]) {
    copy(path.join(root, part), path.join(library, part));
  }
  for (const part of ["dist/src", "dist/clients"]) copy(path.join(root, part), path.join(library, part), runs);
  for (const name of productionPackages()) copy(path.join(root, name), path.join(library, name));
  const { bin } = JSON.parse(fs.readFileSync(path.join(root, "package.json"), "utf8"));
  for (const [name, file] of Object.entries(bin)) {
    fs.chmodSync(path.join(library, file), 0o755);
    link(destination, path.join("usr/bin", name), path.join(LIBRARY, file));
  }
  for (const [file, to] of SYSTEMD) {
    copy(path.join(root, "systemd", file), path.join(destination, to.endsWith("/") ? to + path.basename(file) : to));
  }
  const dropIns = path.join(root, "systemd", "nmid.service.d");
  copy(dropIns, path.join(destination, "usr/share/doc/nmid/nmid.service.d"));
  copy(path.join(root, "docs", "service.md"), path.join(destination, "usr/share/doc/nmid/service.md"));
}

if (process.argv[1] === import.meta.filename) {
  const [destination] = process.argv.slice(2);
  if (destination === undefined) {
    console.error("deploy: name the directory: node scripts/deploy.mjs DESTDIR");
    process.exit(1);
  }
  await setupOrExit();
  deploy(path.resolve(destination));
}
