/** The Kubernetes manifests: what kustomize makes of them, against the published schemas and against what they promise. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { PodMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor";
import { DaemonSet } from "kubernetes-models/apps/v1/DaemonSet";
import { NetworkPolicy } from "kubernetes-models/networking.k8s.io/v1/NetworkPolicy";
import { ConfigMap } from "kubernetes-models/v1/ConfigMap";
import { Namespace } from "kubernetes-models/v1/Namespace";
import { ServiceAccount } from "kubernetes-models/v1/ServiceAccount";
import { parseAllDocuments } from "yaml";
import { DAEMON_MAIN, REPOSITORY } from "./support/daemon.js";
import { hasCommand } from "./support/process.js";

const MANIFESTS = path.join(REPOSITORY, "deploy", "kubernetes");
const KUSTOMIZATIONS = ["base", "overlays/example", "overlays/prometheus-operator"] as const;
const TYPECHECK_TIMEOUT_MS = 120_000;

interface Manifest {
  readonly kind: string;
  readonly [field: string]: unknown;
}

/** From kubernetes-models, which is made of the API server's OpenAPI document and of the operator's CRDs. */
const KINDS: Readonly<Record<string, { readonly module: string; validate(manifest: Manifest): unknown }>> = {
  Namespace: { module: "kubernetes-models/v1/Namespace", validate: (m) => new Namespace(m as never).validate() },
  ServiceAccount: {
    module: "kubernetes-models/v1/ServiceAccount",
    validate: (m) => new ServiceAccount(m as never).validate(),
  },
  ConfigMap: { module: "kubernetes-models/v1/ConfigMap", validate: (m) => new ConfigMap(m as never).validate() },
  NetworkPolicy: {
    module: "kubernetes-models/networking.k8s.io/v1/NetworkPolicy",
    validate: (m) => new NetworkPolicy(m as never).validate(),
  },
  DaemonSet: { module: "kubernetes-models/apps/v1/DaemonSet", validate: (m) => new DaemonSet(m as never).validate() },
  PodMonitor: {
    module: "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor",
    validate: (m) => new PodMonitor(m as never).validate(),
  },
};

/** undefined, and the test skipped, where there is no kustomize. `labels` came with kubectl 1.22. */
function render(t: TestContext, kustomization: string): Manifest[] | undefined {
  if (!hasCommand("kubectl")) {
    t.skip("not installed: kubectl (Debian package kubernetes-client)");
    return undefined;
  }
  const { stdout: version } = spawnSync("kubectl", ["version", "--client", "-o", "json"], { encoding: "utf8" });
  const minor = /"minor": *"(\d+)/.exec(version)?.[1];
  if (minor !== undefined && Number(minor) < 22) {
    t.skip(`kubectl 1.${minor} knows no labels in a kustomization: 1.22 or later`);
    return undefined;
  }
  const directory = path.join(MANIFESTS, kustomization);
  const { status, stdout, stderr } = spawnSync("kubectl", ["kustomize", directory], { encoding: "utf8" });
  assert.equal(status, 0, stderr);
  assert.equal(stderr, "", "kustomize warns of nothing");
  return parseAllDocuments(stdout).map((document) => document.toJS() as Manifest);
}

function kindOf(kind: string) {
  const known = KINDS[kind];
  assert.ok(known, `no schema for ${kind}: name it in KINDS`);
  return known;
}

/** The schemas let unknown fields pass, as they must; the types made of the same documents do not. Returns complaints. */
function typeErrors(t: TestContext, manifests: readonly Manifest[]): string {
  const scratch = path.join(REPOSITORY, ".setup");
  fs.mkdirSync(scratch, { recursive: true });
  // Inside the project, where node_modules is found.
  const dir = fs.mkdtempSync(path.join(scratch, "manifests-"));
  t.after(() => fs.rmSync(dir, { recursive: true, force: true }));
  const lines = manifests.map(
    (manifest, at) =>
      `import type { I${manifest.kind} as T${at} } from "${kindOf(manifest.kind).module}";\n` +
      `export const m${at}: T${at} = ${JSON.stringify(manifest)};\n`,
  );
  fs.writeFileSync(path.join(dir, "manifests.ts"), lines.join(""));
  const compilerOptions = { noEmit: true, strict: true, module: "nodenext", target: "es2023", skipLibCheck: true };
  fs.writeFileSync(
    path.join(dir, "tsconfig.json"),
    JSON.stringify({ compilerOptions: { ...compilerOptions, types: [] }, files: ["manifests.ts"] }),
  );
  fs.writeFileSync(path.join(dir, "package.json"), '{"type":"module"}');
  const tsc = path.join(REPOSITORY, "node_modules", "typescript", "bin", "tsc");
  const { stdout, stderr } = spawnSync(process.execPath, [tsc, "-p", dir], {
    encoding: "utf8",
    timeout: TYPECHECK_TIMEOUT_MS,
  });
  return `${stdout}${stderr}`;
}

function only(manifests: readonly Manifest[], kind: string): Manifest {
  const found = manifests.filter((manifest) => manifest.kind === kind);
  assert.equal(found.length, 1, `${found.length} of ${kind}`);
  return found[0] as Manifest;
}

test("every kustomization holds to the published schemas", { timeout: 300_000 }, async (t) => {
  for (const kustomization of KUSTOMIZATIONS) {
    await t.test(kustomization, (subtest) => {
      const manifests = render(subtest, kustomization);
      if (manifests === undefined) return;
      for (const manifest of manifests) kindOf(manifest.kind).validate(manifest);
      assert.equal(typeErrors(subtest, manifests), "");
    });
  }
});

test("a manifest with a wrong type, a missing or an unknown field is found", { timeout: 120_000 }, (t) => {
  const manifests = render(t, "base");
  if (manifests === undefined) return;
  const changed = (change: (spec: DaemonSet) => void): DaemonSet => {
    const daemonSet = structuredClone(only(manifests, "DaemonSet")) as unknown as DaemonSet;
    change(daemonSet);
    return daemonSet;
  };
  const validate = (daemonSet: DaemonSet) => kindOf("DaemonSet").validate(daemonSet as unknown as Manifest);
  assert.throws(() => validate(changed((set) => Reflect.deleteProperty(set.spec as object, "selector"))), /selector/);
  assert.throws(() => validate(changed((set) => Reflect.set(podOf(set), "hostPID", "yes"))), /hostPID must be boolean/);
  const unknown = changed((set) => Reflect.set(podOf(set), "hostPid", true));
  assert.match(typeErrors(t, [unknown as unknown as Manifest]), /hostPid.* does not exist/);
});

function podOf(daemonSet: DaemonSet) {
  const pod = daemonSet.spec?.template.spec;
  assert.ok(pod);
  return pod;
}

test("the pod has the least privilege that perf_event_open can do with", (t) => {
  const manifests = render(t, "base");
  if (manifests === undefined) return;
  const pod = podOf(only(manifests, "DaemonSet") as unknown as DaemonSet);
  const [nmid] = pod.containers;
  assert.equal(pod.containers.length, 1);
  assert.deepEqual(nmid?.securityContext?.capabilities, { drop: ["ALL"], add: ["PERFMON"] });
  assert.equal(nmid?.securityContext?.privileged, false);
  assert.equal(pod.securityContext?.runAsNonRoot, true);
  assert.deepEqual(pod.securityContext?.seccompProfile, { type: "RuntimeDefault" });
  assert.deepEqual([pod.hostNetwork, pod.hostIPC, pod.automountServiceAccountToken], [undefined, undefined, false]);
  for (const container of [...pod.containers, ...(pod.initContainers ?? [])]) {
    assert.equal(container.securityContext?.readOnlyRootFilesystem, true, container.name);
    assert.deepEqual(container.securityContext?.capabilities?.drop, ["ALL"], container.name);
    assert.ok(container.resources?.limits?.memory, container.name);
  }
  assert.deepEqual(
    (pod.volumes ?? []).flatMap(({ hostPath }) => hostPath?.path ?? []),
    ["/run/nmid"],
  );
});

test("ids, ports and paths are those of the image", (t) => {
  const manifests = render(t, "base");
  if (manifests === undefined) return;
  const dockerfile = fs.readFileSync(path.join(REPOSITORY, "deploy/docker/Dockerfile"), "utf8");
  const pod = podOf(only(manifests, "DaemonSet") as unknown as DaemonSet);
  const { runAsUser, runAsGroup } = pod.securityContext ?? {};
  assert.match(dockerfile, new RegExp(`^USER ${runAsUser}:${runAsGroup}$`, "m"));
  assert.deepEqual(pod.initContainers?.[0]?.command, ["chown", `${runAsUser}:${runAsGroup}`, "/run/nmid"]);
  const port = pod.containers[0]?.ports?.find(({ name }) => name === "metrics")?.containerPort;
  assert.match(dockerfile, new RegExp(`^EXPOSE ${port}$`, "m"));
});

for (const kustomization of ["base", "overlays/example"] as const) {
  test(`nmid takes the configuration of ${kustomization}`, (t) => {
    const manifests = render(t, kustomization);
    if (manifests === undefined) return;
    const { data } = only(manifests, "ConfigMap") as unknown as ConfigMap;
    const dir = fs.mkdtempSync(path.join(os.tmpdir(), "nmid-config-"));
    t.after(() => fs.rmSync(dir, { recursive: true, force: true }));
    const file = path.join(dir, "nmid.yaml");
    fs.writeFileSync(file, data?.["nmid.yaml"] ?? "");
    const { status, stderr } = spawnSync(process.execPath, [DAEMON_MAIN, "--config", file, "--check-config"], {
      encoding: "utf8",
      env: { PATH: process.env.PATH },
    });
    assert.equal(status, 0, stderr);
  });
}
