// Debian packages that tests use. What cannot be installed is no failure: the tests that need it skip and say why.
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { root } from "./setup.mjs";

/** Holds tools that are unpacked rather than installed, since their packages would start services. */
const toolsDir = path.join(root, ".setup", "tools");
const aptTimeoutMs = 300_000;

function onPath(command) {
  const dirs = (process.env.PATH ?? "").split(path.delimiter);
  return dirs.some((dir) => fs.existsSync(path.join(dir, command)));
}

const installed = [
  { name: "python3-grpcio", present: () => fs.existsSync("/usr/lib/python3/dist-packages/grpc") },
  { name: "python3-grpc-tools", present: () => fs.existsSync("/usr/lib/python3/dist-packages/grpc_tools") },
  { name: "gcc", present: () => onPath("cc") },
  { name: "libc6-dev", present: () => fs.existsSync("/usr/include/stdio.h") },
  { name: "spin", present: () => onPath("spin") },
  { name: "linux-perf", present: () => onPath("perf") },
  { name: "faketime", present: () => onPath("faketime") },
  { name: "systemd", present: () => onPath("systemd-analyze") },
  { name: "systemd-container", present: () => onPath("systemd-nspawn") },
  { name: "debootstrap", present: () => onPath("debootstrap") },
  { name: "mmdebstrap", present: () => onPath("mmdebstrap") },
  { name: "debhelper", present: () => onPath("dh") },
  { name: "dpkg-dev", present: () => onPath("dpkg-buildpackage") },
  { name: "lintian", present: () => onPath("lintian") },
  { name: "kubernetes-client", present: () => onPath("kubectl") },
];
// Installed, prometheus would start a server on machines with a service manager; promtool alone is wanted.
const unpacked = [{ name: "prometheus", present: () => onPath("promtool") }];

function apt(args, cwd = root) {
  const result = spawnSync("apt-get", args, {
    cwd,
    env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" },
    stdio: ["ignore", "ignore", "inherit"],
    timeout: aptTimeoutMs,
  });
  return result.status === 0;
}

function unpack(name) {
  const scratch = fs.mkdtempSync(path.join(root, ".setup", "unpack-"));
  try {
    if (!apt(["download", "-qq", "-o", "APT::Sandbox::User=root", name], scratch)) return false;
    const packages = fs.readdirSync(scratch).filter((file) => file.endsWith(".deb"));
    return packages.every((file) => spawnSync("dpkg", ["-x", path.join(scratch, file), toolsDir]).status === 0);
  } finally {
    fs.rmSync(scratch, { recursive: true, force: true });
  }
}

/** Debians for tests, each made once; it takes most of a minute. */
const trees = [
  {
    // test/support/machine.ts boots it.
    path: path.join(root, ".setup", "systemd-root"),
    needs: ["debootstrap", "systemd-nspawn"],
    make: (into) => [
      "debootstrap",
      ["--variant=minbase", "--include=systemd,systemd-sysv,dbus,libcap2-bin", "bookworm", into],
    ],
  },
  {
    // Nothing but what the Debian package depends on, of the first release whose Node is new enough.
    path: path.join(root, ".setup", "debian-root"),
    needs: ["mmdebstrap", "systemd-nspawn"],
    make: (into) => [
      "mmdebstrap",
      ["--quiet", "--mode=root", "--variant=minbase", "--include=systemd,systemd-sysv,dbus,nodejs", "trixie", into],
    ],
  },
];

function makeTree({ path: tree, needs, make }) {
  if (fs.existsSync(tree) || process.getuid() !== 0 || process.env.NMID_TEST_NO_INSTALL === "1") return;
  if (!needs.every(onPath)) return;
  process.stderr.write(`test: making a Debian in ${path.relative(root, tree)}\n`);
  const scratch = fs.mkdtempSync(`${tree}-`);
  const [command, args] = make(scratch);
  const { status } = spawnSync(command, args, { stdio: ["ignore", "ignore", "inherit"], timeout: aptTimeoutMs });
  if (status === 0) {
    fs.chmodSync(scratch, 0o755);
    fs.renameSync(scratch, tree);
  } else {
    fs.rmSync(scratch, { recursive: true, force: true });
    process.stderr.write(`test: ${command} failed, tests that need this Debian skip\n`);
  }
}

/** Installs what is missing where that is possible, and puts the unpacked tools on PATH. */
export function installTestPackages() {
  installMissing();
  for (const tree of trees) makeTree(tree);
}

function installMissing() {
  process.env.PATH = `${process.env.PATH}${path.delimiter}${path.join(toolsDir, "usr", "bin")}`;
  const toInstall = installed.filter((entry) => !entry.present()).map((entry) => entry.name);
  const toUnpack = unpacked.filter((entry) => !entry.present()).map((entry) => entry.name);
  if (toInstall.length + toUnpack.length === 0) return;

  const missing = [...toInstall, ...toUnpack].join(" ");
  const reason =
    process.env.NMID_TEST_NO_INSTALL === "1"
      ? "NMID_TEST_NO_INSTALL is set"
      : process.getuid() !== 0
        ? "not root"
        : !onPath("apt-get")
          ? "no apt-get"
          : undefined;
  if (reason !== undefined) {
    process.stderr.write(`test: missing and not installed (${reason}), their tests skip: ${missing}\n`);
    return;
  }
  process.stderr.write(`test: installing Debian packages: ${missing}\n`);
  if (!apt(["update", "-qq"])) process.stderr.write("test: apt-get update failed; trying with the lists at hand\n");
  for (const name of toInstall) {
    // One by one, so that a package this release does not have costs only its own tests.
    if (!apt(["install", "-qq", "-y", "--no-install-recommends", name])) {
      process.stderr.write(`test: could not install ${name}, its tests skip\n`);
    }
  }
  for (const name of toUnpack) {
    if (!unpack(name)) process.stderr.write(`test: could not unpack ${name}, its tests skip\n`);
  }
}
