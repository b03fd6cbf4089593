import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { PeerCertificate } from "node:tls";
import { alternativeNames, certificatePeer } from "./certificate.js";

describe("alternative names", () => {
  it("are names of hosts, addresses, URIs and mail, and nothing else", () => {
    assert.deepEqual(
      alternativeNames(
        "DNS:a.example, IP Address:10.0.0.1, URI:spiffe://x/y, email:o@example, DirName:/CN=root, othername:<unsupported>",
      ),
      ["a.example", "10.0.0.1", "spiffe://x/y", "o@example"],
    );
    assert.deepEqual(alternativeNames(""), []);
  });

  it("cannot be forged by one that looks like two", () => {
    assert.deepEqual(alternativeNames('URI:"http://a/, DNS:root", DNS:b'), ["http://a/, DNS:root", "b"]);
    assert.deepEqual(alternativeNames('DNS:"x\\", DNS:root", DNS:c'), ['x", DNS:root', "c"]);
  });
});

describe("the peer of a certificate", () => {
  const certificate = (subject: object): PeerCertificate =>
    ({ subject, subjectaltname: "DNS:a", fingerprint256: "AB:01" }) as unknown as PeerCertificate;

  it("has its common name, its other names, and its fingerprint", () => {
    assert.deepEqual(certificatePeer(certificate({ CN: "collector" }), "10.0.0.1:5"), {
      kind: "tls",
      address: "10.0.0.1:5",
      commonName: "collector",
      names: ["a"],
      fingerprint: "ab01",
    });
  });

  it("has no common name where there is none, or more than one", () => {
    for (const subject of [{}, { CN: ["collector", "root"] }]) {
      assert.equal((certificatePeer(certificate(subject), "") as { commonName: string }).commonName, "");
    }
  });
});
