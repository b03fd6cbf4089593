/** The YAML file. Reads text, not the disk. */
import { type Document, isMap, isScalar, LineCounter, type Node, type Pair, parseDocument } from "yaml";
import type { Problem } from "./errors.js";
import type { Layer, RawValue } from "./layers.js";
import { nearest } from "./nearest.js";
import { isKey, type Key, LIMIT_KEYS, TLS_KEYS, TOP_LEVEL_KEYS } from "./schema.js";

/** Mappings at the top level, and the keys in them. */
const SECTIONS: ReadonlyMap<string, readonly string[]> = new Map([
  ["limits", LIMIT_KEYS],
  ["tls", TLS_KEYS],
]);
/** Full names by what may be written at the top level or in a section, wherever the user put it. */
const FULL_NAME = new Map([
  ...[...TOP_LEVEL_KEYS, ...SECTIONS.keys()].map((key): [string, string] => [key, key]),
  ...[...SECTIONS].flatMap(([section, keys]) => keys.map((key): [string, string] => [key, `${section}.${key}`])),
]);

/** @param path for messages only. */
export function readFileLayer(text: string, path: string): Layer {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines });
  const faults = [...document.errors, ...document.warnings];
  if (faults.length > 0) {
    const remedy = 'check its indentation, and quote values that begin with a special character, such as "[::1]:9810"';
    const problems = faults.map(({ linePos, message }): Problem => {
      const [what = message] = message.split("\n", 1);
      return { origin: `${path}:${linePos?.[0].line ?? 1}`, what: what.replace(/ at line \d+.*$/, ""), remedy };
    });
    return { values: new Map(), problems };
  }
  return new Reader(document, path, lines).read();
}

class Reader {
  readonly #document: Document;
  readonly #path: string;
  readonly #lines: LineCounter;
  readonly #values = new Map<Key, RawValue>();
  readonly #problems: Problem[] = [];

  constructor(document: Document, path: string, lines: LineCounter) {
    this.#document = document;
    this.#path = path;
    this.#lines = lines;
  }

  read(): Layer {
    this.#section(this.#document.contents, "");
    return { values: this.#values, problems: this.#problems };
  }

  #section(node: Node | null, prefix: string): void {
    if (node === null || (isScalar(node) && node.value === null)) return; // an empty file, or a section with no keys
    if (!isMap<Node, Node>(node)) {
      const origin = this.#origin(node, prefix === "" ? null : prefix.slice(0, -1));
      this.#problems.push({ origin, what: "is not a mapping", remedy: "write one key: value a line" });
      return;
    }
    for (const pair of node.items) this.#pair(pair, prefix);
  }

  #pair({ key: keyNode, value }: Pair<Node, Node | null>, prefix: string): void {
    const name = isScalar(keyNode) ? String(keyNode.value) : String(keyNode);
    const fullName = prefix + name;
    const origin = this.#origin(keyNode, fullName);
    if (SECTIONS.has(fullName)) {
      this.#section(value, `${fullName}.`);
    } else if (isKey(fullName) && (prefix !== "" || TOP_LEVEL_KEYS.includes(fullName))) {
      this.#value(fullName, value, origin);
    } else {
      const suggestion = nearest(name, [...FULL_NAME.keys()]);
      const remedy = `did you mean ${FULL_NAME.get(suggestion) ?? suggestion}?`;
      this.#problems.push({ origin, what: "unknown key", remedy });
    }
  }

  #value(key: Key, node: Node | null, origin: string): void {
    try {
      this.#values.set(key, { raw: node?.toJS(this.#document) ?? null, origin });
    } catch (error) {
      // An alias of nothing, or too many of them.
      const what = error instanceof Error ? error.message : String(error);
      this.#problems.push({ origin, what, remedy: "write the value out" });
    }
  }

  #origin(node: Node, key: string | null): string {
    const line = node.range ? this.#lines.linePos(node.range[0]).line : 1;
    return `${this.#path}:${line}${key === null ? "" : ` key ${key}`}`;
  }
}
