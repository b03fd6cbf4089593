/** TLS with certificates on both sides: who gets in, who does not, and certificates that are renewed while the daemon runs. */
import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import fs from "node:fs";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { connect as connectTls } from "node:tls";
import { type BrokerClient, connect, type TlsOptions } from "../../clients/typescript/index.js";
import { BOUNDED } from "../support/bound.js";
import { Authority, type Issued } from "../support/certificates.js";
import { poll } from "../support/conditions.js";
import { DaemonError, type RunningDaemon, spawnDaemon, startDaemon } from "../support/daemon.js";
import { metric } from "../support/metric.js";
import { EVERYBODY, policyFile } from "../support/policy.js";
import { hasCommand, NMICTL_MAIN, startProcess } from "../support/process.js";
import { deregisterAndCheck, subscribeNew } from "../support/stream-reader.js";

const SERVER_NAMES = "DNS:localhost,IP:127.0.0.1";
/** Channels to one address share a connection unless told otherwise. */
const OWN_CONNECTION = { "grpc.use_local_subchannel_pool": 1 };

interface Stage {
  readonly dir: string;
  readonly authority: Authority;
  readonly daemon: RunningDaemon;
  /** What the daemon reads. */
  readonly files: { readonly cert: string; readonly key: string; readonly client_ca: string };
  readonly client: Issued;
}

function scratch(t: TestContext): string {
  const dir = fs.mkdtempSync("/dev/shm/nmid-tls-");
  t.after(() => fs.rmSync(dir, { recursive: true }));
  return dir;
}

function install(files: Stage["files"], { certFile, keyFile }: Issued): void {
  fs.copyFileSync(certFile, files.cert);
  fs.copyFileSync(keyFile, files.key);
}

async function stage(t: TestContext): Promise<Stage | null> {
  if (!hasCommand("openssl")) {
    t.skip("openssl is not installed");
    return null;
  }
  const dir = scratch(t);
  const authority = new Authority(dir, "authority");
  const files = {
    cert: path.join(dir, "cert.pem"),
    key: path.join(dir, "key.pem"),
    client_ca: path.join(dir, "clients.pem"),
  };
  install(files, authority.issue("server", SERVER_NAMES));
  fs.copyFileSync(authority.caFile, files.client_ca);
  const config = path.join(dir, "nmid.yaml");
  fs.writeFileSync(config, `tls: ${JSON.stringify(files)}\n`);
  const args = ["--source", "synthetic:1000", "--config", config, "--listen", "127.0.0.1:0"];
  const daemon = await startDaemon(t, { args: [...args, ...policyFile(t, EVERYBODY).args] });
  return { dir, authority, daemon, files, client: authority.issue("collector", "URI:spiffe://fleet/collector") };
}

function connectAs(t: TestContext, { daemon, authority }: Stage, issued: Issued): BrokerClient {
  const tls: TlsOptions = { caFile: authority.caFile, ...issued };
  const client = connect(daemon.address, { tls, channelOptions: OWN_CONNECTION });
  t.after(() => client.close());
  return client;
}

/** The certificate that the daemon shows to a new connection. */
function shownCertificate({ daemon, authority, client }: Stage): Promise<string> {
  const { host, port } = hostAndPort(daemon);
  return new Promise((resolve, reject) => {
    const socket = connectTls({
      ...{ host, port, ALPNProtocols: ["h2"], ca: fs.readFileSync(authority.caFile) },
      ...{ cert: fs.readFileSync(client.certFile), key: fs.readFileSync(client.keyFile) },
    });
    socket.once("error", reject);
    socket.once("secureConnect", () => {
      resolve(socket.getPeerCertificate().fingerprint256);
      socket.destroy();
    });
  });
}

function hostAndPort({ address }: RunningDaemon): { host: string; port: number } {
  const [host = "", port] = address.split(":");
  return { host, port: Number(port) };
}

function fingerprint({ certFile }: Issued): string {
  return new X509Certificate(fs.readFileSync(certFile)).fingerprint256;
}

test("a client with a certificate is let in and known by it", BOUNDED, async (t) => {
  const here = await stage(t);
  if (here === null) return;
  const client = connectAs(t, here, here.client);
  const reader = await subscribeNew(client, { name: "remote", events: [] });
  await reader.untilMore(10);
  const [handler] = (await client.listHandlers()).handlers;
  assert.match(handler?.peer ?? "", /^cn=collector 127\.0\.0\.1:\d+$/);
  assert.equal(await metric(here.daemon, 'nmid_connections{kind="tls"}'), 1);
  const expiry = await metric(here.daemon, "nmid_tls_certificate_expiry_timestamp_seconds");
  assert.equal(expiry, Date.parse(new X509Certificate(fs.readFileSync(here.files.cert)).validTo) / 1000);
  await deregisterAndCheck(client, reader);
});

test("nobody else is: plain, without a certificate, with another authority's", BOUNDED, async (t) => {
  const here = await stage(t);
  if (here === null) return;
  const { daemon, authority } = here;
  const refused = (): Promise<number> => metric(daemon, 'nmid_refused_total{reason="tls"}');
  // A client that is shut out tries again until it is closed: each time is refused.
  const untilRefused = async (before: number): Promise<void> => {
    await poll("a refusal", async () => ((await refused()) > before ? true : undefined));
  };

  const plain = connect(daemon.address, { channelOptions: OWN_CONNECTION });
  await assert.rejects(plain.getStatus(), { code: "UNAVAILABLE" });
  plain.close();
  await untilRefused(0);

  const before = await refused();
  const stranger = connectAs(t, here, new Authority(here.dir, "stranger").issue("collector", "DNS:collector"));
  await assert.rejects(stranger.getStatus(), { code: "UNAVAILABLE" });
  stranger.close();
  await untilRefused(before);

  const { host, port } = hostAndPort(daemon);
  const beforeNameless = await refused();
  const nameless = connectTls({ host, port, ALPNProtocols: ["h2"], ca: fs.readFileSync(authority.caFile) });
  await new Promise((resolve) => nameless.on("error", () => {}).once("close", resolve));
  await untilRefused(beforeNameless);

  // Speaks no HTTP/2: shut out after the handshake.
  const { certFile, keyFile } = here.client;
  const http1 = connectTls({
    ...{ host, port, ca: fs.readFileSync(authority.caFile) },
    ...{ cert: fs.readFileSync(certFile), key: fs.readFileSync(keyFile) },
  });
  await new Promise((resolve) => http1.on("error", () => {}).once("close", resolve));
  await poll("no connection", async () =>
    (await metric(daemon, 'nmid_connections{kind="tls"}')) === 0 ? true : undefined,
  );
  await connectAs(t, here, here.client).getStatus();
});

test("a renewed certificate is shown to new connections, and old ones live on", BOUNDED, async (t) => {
  const here = await stage(t);
  if (here === null) return;
  const client = connectAs(t, here, here.client);
  const reader = await subscribeNew(client, { name: "long-lived", events: [] });
  await reader.untilMore(10);
  const before = await shownCertificate(here);

  const renewed = here.authority.issue("renewed", SERVER_NAMES);
  install(here.files, renewed);
  assert.equal(await shownCertificate(here), fingerprint(renewed));
  assert.notEqual(before, fingerprint(renewed));
  assert.match(here.daemon.logs.join("\n"), /certificate renewed/);
  // Exchanged as a whole, as secrets are in containers.
  const again = here.authority.issue("again", SERVER_NAMES);
  fs.rmSync(here.files.cert);
  fs.rmSync(here.files.key);
  fs.symlinkSync(again.keyFile, here.files.key);
  fs.symlinkSync(again.certFile, here.files.cert);
  assert.equal(await shownCertificate(here), fingerprint(again));
  await connectAs(t, here, here.client).getStatus();
  await reader.untilMore(10);
  await deregisterAndCheck(client, reader);
});

test("a broken one leaves the old one in use, and is told once", BOUNDED, async (t) => {
  const here = await stage(t);
  if (here === null) return;
  const before = await shownCertificate(here);
  fs.writeFileSync(here.files.cert, "-----BEGIN CERTIFICATE-----\nhalf of it");
  assert.equal(await shownCertificate(here), before);
  assert.equal(await shownCertificate(here), before);
  await connectAs(t, here, here.client).getStatus();
  const told = (): number =>
    here.daemon.logs.filter((line) => /"level":"error".*stays in use: tls\.cert: .*no certificate/.test(line)).length;
  await poll("the line", () => (told() > 0 ? true : undefined));
  assert.equal(told(), 1);
  // A certificate whose key has not come yet.
  const renewed = here.authority.issue("renewed", SERVER_NAMES);
  fs.copyFileSync(renewed.certFile, here.files.cert);
  assert.equal(await shownCertificate(here), before);
  fs.copyFileSync(renewed.keyFile, here.files.key);
  assert.equal(await shownCertificate(here), fingerprint(renewed));
});

test("when the authority of clients is exchanged, those of the old one are shut out", BOUNDED, async (t) => {
  const here = await stage(t);
  if (here === null) return;
  await connectAs(t, here, here.client).getStatus();
  const next = new Authority(here.dir, "next");
  fs.copyFileSync(next.caFile, here.files.client_ca);
  await assert.rejects(connectAs(t, here, here.client).getStatus(), { code: "UNAVAILABLE" });
  await connectAs(t, here, next.issue("collector", "DNS:collector")).getStatus();
});

test("a client does not talk to a daemon whose certificate names another host", BOUNDED, async (t) => {
  const here = await stage(t);
  if (here === null) return;
  await connectAs(t, here, here.client).getStatus();
  install(here.files, here.authority.issue("elsewhere", "DNS:elsewhere.example,DNS:address.invalid,IP:127.0.0.2"));
  await assert.rejects(connectAs(t, here, here.client).getStatus(), { code: "UNAVAILABLE", message: /127\.0\.0\.1/ });
});

test("nmictl speaks it, with all three files", BOUNDED, async (t) => {
  const here = await stage(t);
  if (here === null) return;
  const { daemon, authority, client } = here;
  const nmictl = (...args: string[]) =>
    startProcess(t, process.execPath, [NMICTL_MAIN, "--address", daemon.address, ...args]).exited;
  const files = ["--ca-file", authority.caFile, "--cert-file", client.certFile];
  const good = await nmictl(...files, "--key-file", client.keyFile, "--json", "status");
  assert.equal(good.code, 0, good.stderr);
  assert.equal((JSON.parse(good.stdout) as { pid: number }).pid, daemon.pid);
  const short = await nmictl(...files, "status");
  assert.equal(short.code, 1);
  assert.match(short.stderr, /TLS needs --ca-file, --cert-file and --key-file/);
  const absent = await nmictl(...files, "--key-file", "/no/such", "status");
  assert.equal(absent.code, 1);
  assert.match(absent.stderr, /keyFile: ENOENT.*\/no\/such/);
  const verified = await nmictl(...files, "--key-file", client.keyFile, "verify", "--seconds", "1");
  assert.equal(verified.code, 0, verified.stdout + verified.stderr);
});

test("a start with files that will not do ends, and names the file", BOUNDED, async (t) => {
  if (!hasCommand("openssl")) return t.skip("openssl is not installed");
  const dir = scratch(t);
  const authority = new Authority(dir, "authority");
  const [one, two] = [authority.issue("one", SERVER_NAMES), authority.issue("two", SERVER_NAMES)];
  const cases: readonly (readonly [cert: string, key: string, message: RegExp])[] = [
    [one.certFile, two.keyFile, /tls\.key: .*two\.key: not usable with .*one\.pem/],
    ["/no/such", one.keyFile, /tls\.cert: ENOENT.*\/no\/such/],
    [one.keyFile, one.keyFile, /tls\.cert: .*one\.key: no certificate/],
  ];
  for (const [cert, key, message] of cases) {
    const config = path.join(dir, "nmid.yaml");
    fs.writeFileSync(config, `tls: ${JSON.stringify({ cert, key, client_ca: authority.caFile })}\n`);
    const args = ["--source", "synthetic:1000", "--config", config, "--listen", "127.0.0.1:0"];
    await assert.rejects(spawnDaemon({ args }), (error: unknown) => {
      assert(error instanceof DaemonError);
      assert.equal(error.exitCode, 1);
      assert.match(error.message, message);
      return true;
    });
  }
});
