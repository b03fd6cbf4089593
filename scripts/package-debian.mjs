// `node scripts/package-debian.mjs [--out DIR] [--version VERSION]`: sets up and makes a Debian package of the built tree
// with debhelper (Debian's packages debhelper and dpkg-dev). The same tree, versions of Node packages and SOURCE_DATE_EPOCH
// give the same bytes; where SOURCE_DATE_EPOCH is not set, it is the last commit's time.
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { deploy } from "./deploy.mjs";
import { root, setupOrExit } from "./setup.mjs";

const NAME = "nmid";

/** Seconds since the epoch. */
function sourceDate() {
  if (process.env.SOURCE_DATE_EPOCH !== undefined) return Number(process.env.SOURCE_DATE_EPOCH);
  const { status, stdout } = spawnSync("git", ["log", "-1", "--format=%ct"], { cwd: root, encoding: "utf8" });
  if (status === 0 && stdout.trim() !== "") return Number(stdout);
  return Math.floor(fs.statSync(path.join(root, "package.json")).mtimeMs / 1000);
}

/** As dpkg-parsechangelog reads it. */
function changelog(version, epoch) {
  const date = new Date(epoch * 1000).toUTCString().replace("GMT", "+0000");
  const control = fs.readFileSync(path.join(root, "deploy/debian/control"), "utf8");
  const maintainer = /^Maintainer: (.*)$/m.exec(control)[1];
  const text = "  * What is new is in changelog.gz beside this file.";
  return `${NAME} (${version}) unstable; urgency=medium\n\n${text}\n\n -- ${maintainer}  ${date}\n`;
}

/** Name, version and licence of each Node package in the stage, which package.json tells; the texts are in their folders. */
function thirdParty(stage) {
  const modules = path.join(stage, "usr/lib/nmid/node_modules");
  const { packages } = JSON.parse(fs.readFileSync(path.join(root, "package-lock.json"), "utf8"));
  return Object.entries(packages)
    .filter(([name]) => name !== "" && fs.existsSync(path.join(path.dirname(modules), name)))
    .map(([name, { version, license }]) => `${name} ${version}: ${license}\n`)
    .join("");
}

/** debhelper wants units and fragments by the package's name in debian/, from where it also enables and starts them. */
const DEBHELPERS = [
  ["usr/lib/systemd/system/nmid.service", "nmid.service"],
  ["usr/lib/systemd/system/nmid.socket", "nmid.socket"],
  ["usr/lib/sysusers.d/nmid.conf", "nmid.sysusers"],
  ["usr/lib/tmpfiles.d/nmid.conf", "nmid.tmpfiles"],
];

function fillTree(tree, version, epoch) {
  const stage = path.join(tree, "stage");
  const debian = path.join(tree, "debian");
  deploy(stage);
  fs.cpSync(path.join(root, "deploy/debian"), debian, { recursive: true });
  for (const [staged, name] of DEBHELPERS) {
    fs.copyFileSync(path.join(stage, staged), path.join(debian, name));
    fs.rmSync(path.join(stage, staged));
  }
  for (const emptied of ["usr/lib/systemd/system", "usr/lib/systemd", "usr/lib/sysusers.d", "usr/lib/tmpfiles.d"]) {
    fs.rmdirSync(path.join(stage, emptied));
  }
  // /usr/share/common-licenses has it.
  fs.rmSync(path.join(stage, "usr/lib/nmid/LICENSE"));
  const doc = path.join(stage, "usr/share/doc", NAME);
  fs.writeFileSync(path.join(doc, "third-party.txt"), thirdParty(stage));
  // dh_installchangelogs takes it from there.
  fs.copyFileSync(path.join(root, "CHANGELOG.md"), path.join(tree, "CHANGELOG.md"));
  if (fs.existsSync(path.join(root, "docs/operations.md"))) {
    fs.copyFileSync(path.join(root, "docs/operations.md"), path.join(doc, "operations.md"));
  }
  fs.writeFileSync(path.join(debian, "changelog"), changelog(version, epoch));
}

/** Expects a tree that is set up. Returns the package's file, in `out`. Throws when dpkg-buildpackage fails. */
export function buildDebianPackage({ out, version, epoch = sourceDate() }) {
  const scratch = fs.mkdtempSync(path.join(os.tmpdir(), "nmid-debian-"));
  try {
    const tree = path.join(scratch, NAME);
    fillTree(tree, version, epoch);
    const { status, error, output } = spawnSync("dpkg-buildpackage", ["--build=binary", "--no-sign"], {
      cwd: tree,
      encoding: "utf8",
      env: { ...process.env, SOURCE_DATE_EPOCH: String(epoch), LC_ALL: "C.UTF-8", TZ: "UTC" },
    });
    if (error) throw new Error(`cannot run dpkg-buildpackage (Debian package dpkg-dev): ${error.message}`);
    if (status !== 0) throw new Error(`dpkg-buildpackage failed:\n${output.join("\n")}`);
    const file = `${NAME}_${version}_amd64.deb`;
    fs.mkdirSync(out, { recursive: true });
    fs.copyFileSync(path.join(scratch, file), path.join(out, file));
    return path.join(out, file);
  } finally {
    fs.rmSync(scratch, { recursive: true, force: true });
  }
}

/** The project's, as Debian writes versions: a pre-release is before its release. */
export function projectVersion() {
  return `${JSON.parse(fs.readFileSync(path.join(root, "package.json"), "utf8")).version.replace("-", "~")}-1`;
}

if (process.argv[1] === import.meta.filename) {
  const { values } = parseArgs({ options: { out: { type: "string" }, version: { type: "string" } } });
  await setupOrExit();
  const out = path.resolve(values.out ?? path.join(root, "dist", "debian"));
  console.log(buildDebianPackage({ out, version: values.version ?? projectVersion() }));
}
