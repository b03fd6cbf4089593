/** The Debian package: built twice alike, then installed, upgraded, removed and purged in a Debian with a real systemd. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { pathToFileURL } from "node:url";
import { REPOSITORY } from "../support/daemon.js";
import { type Machine, startMachine, TREES } from "../support/machine.js";
import { hasCommand } from "../support/process.js";

const VERSIONS = ["0.0.1-1", "0.0.2-1"] as const;
/** Any will do. */
const EPOCH = 1_700_000_000;
const SOCKET = "unix:/run/nmid/nmid.sock";
const BOUNDED = { timeout: 900_000 };

interface Packaging {
  buildDebianPackage(options: { out: string; version: string; epoch: number }): string;
}

async function packaging(): Promise<Packaging> {
  return (await import(pathToFileURL(path.join(REPOSITORY, "scripts", "package-debian.mjs")).href)) as Packaging;
}

/** A directory with a package of each version; undefined, and the test skipped, where none can be built. */
async function packages(t: TestContext, versions: readonly string[]): Promise<string | undefined> {
  for (const command of ["dpkg-buildpackage", "dh"]) {
    if (!hasCommand(command)) {
      t.skip(`not installed: ${command}`);
      return undefined;
    }
  }
  const out = fs.mkdtempSync(path.join(os.tmpdir(), "nmid-packages-"));
  t.after(() => fs.rmSync(out, { recursive: true, force: true }));
  const { buildDebianPackage } = await packaging();
  for (const version of versions) buildDebianPackage({ out, version, epoch: EPOCH });
  return out;
}

function output(command: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: "utf8" });
  assert.equal(status, 0, `${command}: ${stdout}${stderr}`);
  return stdout;
}

/** What is in it, and that the same tree gives the same bytes. */
async function isReproducible(out: string): Promise<void> {
  const file = path.join(out, `nmid_${VERSIONS[0]}_amd64.deb`);
  const { buildDebianPackage } = await packaging();
  const again = buildDebianPackage({ out: path.join(out, "again"), version: VERSIONS[0], epoch: EPOCH });
  assert.ok(fs.readFileSync(file).equals(fs.readFileSync(again)), "two builds differ");
  fs.rmSync(path.dirname(again), { recursive: true });
  const names = output("dpkg-deb", "--contents", file).split("\n");
  const has = (pattern: RegExp) => names.some((name) => pattern.test(name));
  for (const wanted of [
    / \.\/usr\/bin\/nmictl -> /,
    / \.\/usr\/lib\/nmid\/proto\/nmi\.proto$/,
    / \.\/etc\/nmid\/nmid\.yaml$/,
    /koffi-linux-x64\/linux_x64\/koffi\.node$/,
    /node_modules\/zod\/LICENSE$/,
  ]) {
    assert.ok(has(wanted), `not in the package: ${wanted}`);
  }
  const unwanted = /\.test\.js|\.js\.map|node_modules\/(typescript|fast-check|@biomejs|@types)\/|musl|\.ts$/;
  assert.deepEqual(
    names.filter((name) => unwanted.test(name)),
    [],
  );
  assert.match(output("dpkg-deb", "--field", file, "Depends"), /nodejs \(>= 20\.19\)/);
}

function pleasesLintian(t: TestContext, out: string): void {
  if (!hasCommand("lintian")) {
    t.skip("not installed: lintian");
    return;
  }
  const deb = path.join(out, `nmid_${VERSIONS[0]}_amd64.deb`);
  assert.equal(output("lintian", "--allow-root", "--fail-on=none", "--no-tag-display-limit", deb), "");
}

const deb = (version: string) => `/srv/nmid_${version}_amd64.deb`;

/** Every file and directory but what dpkg, systemd and the kernel keep for themselves. */
async function tree(machine: Machine): Promise<string[]> {
  const skip = ["/proc", "/sys", "/dev", "/tmp", "/srv", "/run", "/var/log", "/var/lib/dpkg", "/var/cache"];
  const prune = skip.flatMap((dir) => ["-path", dir, "-prune", "-o"]);
  const found = await machine.must("find", "/", "-xdev", ...prune, "-print");
  // Backups and locks that useradd and userdel leave; systemd's own state.
  return found
    .split("\n")
    .filter((name) => !/^\/etc\/\.pwd\.lock$|^\/etc\/(passwd|group|shadow|gshadow)-$|^\/var\/lib\/systemd\//.test(name))
    .sort();
}

async function installs(machine: Machine): Promise<void> {
  await machine.must("dpkg", "--install", deb(VERSIONS[0]));
  assert.equal(await machine.show("nmid.service", "ActiveState"), "active");
  assert.equal(await machine.show("nmid.socket", "ActiveState"), "active");
  for (const unit of ["nmid.service", "nmid.socket"]) {
    assert.equal(await machine.must("systemctl", "is-enabled", unit), "enabled", unit);
  }
  assert.match(await machine.must("id", "nmid"), /^uid=\d+\(nmid\) gid=\d+\(nmid\)/);
}

/** As a member of group nmid, who has no other right; and as somebody else. */
async function serves(machine: Machine): Promise<void> {
  const as = (group: string) => ["setpriv", "--reuid=nobody", `--regid=${group}`, "--clear-groups"] as const;
  const status = ["nmictl", "--address", SOCKET, "status"];
  assert.match(await machine.must(...as("nmid"), ...status), /^source: +perf/m);
  assert.notEqual((await machine.run(...as("nogroup"), ...status)).code, 0);
}

async function upgrades(machine: Machine): Promise<void> {
  const before = await machine.show("nmid.service", "MainPID");
  const listening = await machine.must("stat", "--format=%i", "/run/nmid/nmid.sock");
  await machine.must("sh", "-c", "echo 'log_level: debug' >> /etc/nmid/nmid.yaml");
  await machine.must("dpkg", "--force-confold", "--install", deb(VERSIONS[1]));
  assert.notEqual(await machine.show("nmid.service", "MainPID"), before);
  assert.equal(await machine.show("nmid.service", "ActiveState"), "active");
  // The socket was never closed, and the configuration is the administrator's.
  const log = `${await machine.journal("nmid.socket")}\n${await machine.journal("nmid.service")}`;
  assert.equal(await machine.must("stat", "--format=%i", "/run/nmid/nmid.sock"), listening, log);
  assert.match(await machine.must("cat", "/etc/nmid/nmid.yaml"), /^log_level: debug$/m);
  await serves(machine);
}

async function removesAndPurges(machine: Machine, before: string[]): Promise<void> {
  await machine.must("dpkg", "--remove", "nmid");
  assert.equal((await machine.run("pgrep", "-u", "nmid")).stdout, "");
  assert.equal(await machine.show("nmid.socket", "ActiveState"), "inactive");
  assert.match(await machine.must("cat", "/etc/nmid/nmid.yaml"), /^log_level: debug$/m);
  await machine.must("dpkg", "--purge", "nmid");
  assert.equal((await machine.run("getent", "passwd", "nmid")).code, 2);
  assert.equal((await machine.run("getent", "group", "nmid")).code, 2);
  assert.equal((await machine.run("test", "-e", "/run/nmid")).code, 1);
  assert.deepEqual(await tree(machine), before);
}

test("the Debian package", BOUNDED, async (t) => {
  const out = await packages(t, VERSIONS);
  if (out === undefined) return;
  await t.test("it is the same whenever it is built, and holds what runs and nothing else", () => isReproducible(out));
  await t.test("lintian finds nothing in it", (subtest) => pleasesLintian(subtest, out));
  const machine = await startMachine(t, {
    tree: TREES.debian,
    files: (into) => fs.cpSync(out, path.join(into, "srv"), { recursive: true }),
  });
  if (machine === null) return;
  const before = await tree(machine);
  await t.test("installed, it is enabled and runs", () => installs(machine));
  await t.test("a member of its group is served, others are not", () => serves(machine));
  await t.test("an upgrade restarts the service and keeps socket and configuration", () => upgrades(machine));
  await t.test("a purge leaves what was there before", () => removesAndPurges(machine, before));
});
