/** What deploy/ gives to operators, with the real tools: rules and their tests, a Prometheus that scrapes the daemon, the dashboard's queries. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import fs from "node:fs";
import { createServer } from "node:net";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { BOUNDED } from "../support/bound.js";
import { poll } from "../support/conditions.js";
import { REPOSITORY, type RunningDaemon, startDaemon } from "../support/daemon.js";
import { connectTo } from "../support/live.js";
import { deregisterAndCheck, subscribeNew } from "../support/stream-reader.js";

const DEPLOY = path.join(REPOSITORY, "deploy");
const RULES = path.join(DEPLOY, "prometheus");
const ALERTS = path.join(RULES, "nmid-alerts.rules.yml");

function whySkipped(tool: string): string | undefined {
  return spawnSync(tool, ["--version"]).error && `${tool} is not installed`;
}

function promtool(...args: string[]): { readonly status: number | null; readonly output: string } {
  const { status, stdout, stderr } = spawnSync("promtool", args, { cwd: RULES, encoding: "utf8" });
  return { status, output: stdout + stderr };
}

const noPromtool = { skip: whySkipped("promtool") };

test("promtool takes configuration and rules, and every alert fires and does not where it should", noPromtool, () => {
  for (const args of [
    ["check", "config", "prometheus.yml"],
    ["check", "rules", "nmid-recording.rules.yml", "nmid-alerts.rules.yml"],
    ["test", "rules", "nmid.test.yml"],
  ]) {
    const { status, output } = promtool(...args);
    assert.equal(status, 0, `${args.join(" ")}: ${output}`);
  }
});

test("every alert has both tests, a summary, a description, and an entry in the operators' handbook", () => {
  const alerts = fs
    .readFileSync(ALERTS, "utf8")
    .split(/^ {6}- alert: /m)
    .slice(1);
  const tests = fs.readFileSync(path.join(RULES, "nmid.test.yml"), "utf8");
  const handbook = fs.readFileSync(path.join(REPOSITORY, "docs", "operations.md"), "utf8");
  assert.ok(alerts.length >= 13);
  for (const text of alerts) {
    const name = /^\w+/.exec(text)?.[0] ?? "";
    for (const kind of ["fires", "stays quiet"])
      assert.ok(tests.includes(`- name: ${name} ${kind}\n`), `${name} ${kind}`);
    assert.match(text, /summary: ".{10,}"/, name);
    assert.match(text, /description: ".{40,}"/, name);
    assert.ok(text.includes(`runbook_url: "docs/operations.md#${name.toLowerCase()}"`), name);
    assert.ok(handbook.includes(`\n### ${name}\n`), `docs/operations.md has no ${name}`);
  }
});

interface Result {
  readonly metric: Readonly<Record<string, string>>;
  readonly value: readonly [number, string];
}

class Prometheus {
  readonly #origin: string;
  constructor(origin: string) {
    this.#origin = origin;
  }

  async get<T>(where: string): Promise<T> {
    const response = await fetch(`${this.#origin}/api/v1/${where}`);
    const answer = (await response.json()) as { status: string; error?: string; data: T };
    assert.equal(answer.status, "success", `${where}: ${answer.error}`);
    return answer.data;
  }

  async query(expression: string): Promise<readonly Result[]> {
    return (await this.get<{ result: readonly Result[] }>(`query?query=${encodeURIComponent(expression)}`)).result;
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, "close");
  return port;
}

/** Debian's, with the shipped configuration but for the target, and intervals that a test can wait for. */
async function startPrometheus(t: TestContext, daemon: RunningDaemon): Promise<Prometheus> {
  const scratch = fs.mkdtempSync("/dev/shm/nmid-prometheus-");
  const shipped = fs.readFileSync(path.join(RULES, "prometheus.yml"), "utf8");
  const config = shipped
    .replace("127.0.0.1:9810", daemon.metricsAddress)
    .replace(/(scrape_interval|evaluation_interval): 15s/g, "$1: 1s")
    .replace("scrape_timeout: 5s", "scrape_timeout: 1s");
  for (const rules of ["nmid-recording.rules.yml", "nmid-alerts.rules.yml"]) {
    fs.copyFileSync(path.join(RULES, rules), path.join(scratch, rules));
  }
  const file = path.join(scratch, "prometheus.yml");
  fs.writeFileSync(file, config);
  const address = `127.0.0.1:${await freePort()}`;
  const flags = [`--config.file=${file}`, `--storage.tsdb.path=${scratch}/data`, `--web.listen-address=${address}`];
  const child = spawn("prometheus", flags, { stdio: ["ignore", "ignore", "pipe"] });
  let said = "";
  child.stderr.on("data", (chunk) => {
    said += chunk;
  });
  const exited = once(child, "exit");
  t.after(async () => {
    child.kill("SIGKILL");
    await exited;
    fs.rmSync(scratch, { recursive: true, force: true });
  });
  await poll("a Prometheus that is ready", async () => {
    assert.equal(child.exitCode, null, said);
    const ready = await fetch(`http://${address}/-/ready`).catch(() => null);
    return ready?.ok || undefined;
  });
  return new Prometheus(`http://${address}`);
}

interface Panel {
  readonly title: string;
  readonly type: string;
  readonly targets?: readonly { readonly expr: string }[];
}

interface Dashboard {
  readonly panels: readonly Panel[];
  readonly annotations: { readonly list: readonly { readonly expr: string }[] };
}

/** What Grafana puts in for its variables. */
function expand(expression: string): string {
  return expression.replaceAll("$__rate_interval", "1m").replaceAll("$instance", ".*");
}

/** Queries that a daemon in good health answers with nothing, and why. */
const EMPTY: readonly (readonly [part: string, why: string])[] = [
  ["resets(nmid_uptime_seconds", "the daemon has not been restarted"],
  ["nmid_event_multiplexing_ratio", "only events of a PMU are counted in time"],
];

const noPrometheus = { ...BOUNDED, skip: whySkipped("prometheus") };

test(
  "a Prometheus scrapes the daemon, answers quantiles of its latencies, and every query of the dashboard",
  noPrometheus,
  async (t) => {
    const daemon = await startDaemon(t, { args: ["--source", "synthetic:20000"] });
    const prometheus = await startPrometheus(t, daemon);
    const client = connectTo(t, daemon);
    const fast = await subscribeNew(client, { name: "fast", events: [{}] });
    // Takes nothing and so loses: what is lost has a series by then.
    const stuck = await subscribeNew(
      client,
      { name: "stuck", events: [{}], queue: { maxBytes: 65_536 } },
      { paused: true },
    );
    stuck.done.catch(() => {});
    await fast.untilMore(20_000);

    const quantile = "histogram_quantile(0.99, sum by (le, stage) (rate(nmid_dispatch_latency_seconds_bucket[1m])))";
    const stages = await poll("quantiles of all three stages", async () => {
      const found = (await prometheus.query(quantile)).filter(({ value }) => Number(value[1]) > 0);
      return found.length === 3 ? found : undefined;
    });
    for (const { metric, value } of stages) {
      assert.ok(Number(value[1]) > 0 && Number(value[1]) < 60, `${metric.stage}: ${value[1]} s`);
    }
    await poll("losses of the one that is stuck", async () => {
      const [lost] = await prometheus.query('sum(rate(nmid_handler_lost_samples_total{name="stuck"}[1m]))');
      return lost !== undefined && Number(lost.value[1]) > 0 ? true : undefined;
    });
    await poll("recorded series", async () => {
      const recorded = await prometheus.query('{__name__=~"instance.*:nmid_.*"}');
      return new Set(recorded.map(({ metric }) => metric.__name__)).size >= 6 || undefined;
    });

    const { groups } = await prometheus.get<{
      groups: readonly { rules: readonly { name: string; health: string; lastError?: string }[] }[];
    }>("rules");
    for (const { name, health, lastError } of groups.flatMap(({ rules }) => rules)) {
      assert.equal(health, "ok", `${name}: ${lastError}`);
    }

    const { panels, annotations } = JSON.parse(
      fs.readFileSync(path.join(DEPLOY, "grafana", "nmid.json"), "utf8"),
    ) as Dashboard;
    const queries = [...panels.flatMap(({ targets = [] }) => targets), ...annotations.list].map(({ expr }) => expr);
    assert.ok(queries.length > 40, `${queries.length}`);
    const types = new Set(panels.map(({ type }) => type));
    for (const type of ["heatmap", "table", "timeseries", "stat"]) assert.ok(types.has(type), type);
    for (const query of queries) {
      const result = await prometheus.query(expand(query));
      const why = EMPTY.find(([part]) => query.includes(part))?.[1];
      if (why === undefined) assert.ok(result.length > 0, `nothing for ${query}`);
    }
    await deregisterAndCheck(client, fast);
  },
);

test("promtool has nothing to object to in what the daemon exports", { ...BOUNDED, ...noPromtool }, async (t) => {
  const daemon = await startDaemon(t, { args: ["--source", "synthetic:20000"] });
  const client = connectTo(t, daemon);
  const reader = await subscribeNew(client, { name: "reader", events: [{}] });
  await reader.untilMore(1000);
  const text = await (await fetch(`http://${daemon.metricsAddress}/metrics`)).text();
  const { status, stdout, stderr } = spawnSync("promtool", ["check", "metrics"], { input: text, encoding: "utf8" });
  assert.deepEqual({ status, stdout, stderr }, { status: 0, stdout: "", stderr: "" });
});

/** More names than have series of their own. */
const NAMES = 2000;
const AT_ONCE = 100;

test("thousands of handlers that come and go leave a bounded number of series", BOUNDED, async (t) => {
  const daemon = await startDaemon(t, { args: ["--source", "synthetic:1000"] });
  const client = connectTo(t, daemon);
  const series = new Set<string>();
  const scrape = async (): Promise<void> => {
    const text = await (await fetch(`http://${daemon.metricsAddress}/metrics`)).text();
    for (const line of text.split("\n")) if (/^nmid_handler_\w+\{/.test(line)) series.add(line.replace(/ \S+$/, ""));
  };
  for (let i = 0; i < NAMES; i += AT_ONCE) {
    const registered = await Promise.all(
      Array.from({ length: AT_ONCE }, (_, k) => client.register({ name: `churn-${i + k}`, events: [{}] })),
    );
    await scrape();
    await Promise.all(registered.map(({ handlerId }) => client.deregister(handlerId, { discard: true })));
  }
  const names = new Set([...series].map((line) => /name="([^"]*)"/.exec(line)?.[1]));
  assert.equal(names.size, 201);
  assert.ok(names.has("(others)"));
  assert.ok(series.size < 201 * 40, `${series.size}`);
});
