/** A strict reader of Prometheus' text format 0.0.4 for tests: anything the format does not allow throws. */
export interface ParsedSample {
  readonly name: string;
  readonly labels: ReadonlyMap<string, string>;
  readonly value: number;
}

export interface ParsedFamily {
  readonly help: string;
  readonly type: string;
  readonly samples: readonly ParsedSample[];
}

const HELP = /^# HELP ([a-z_][a-z0-9_]*) (.+)$/;
const TYPE = /^# TYPE ([a-z_][a-z0-9_]*) (counter|gauge|histogram|summary)$/;
const SAMPLE = /^([a-z_][a-z0-9_]*)(?:\{(.*)\})? (\S+)$/s;
const LABEL = /([a-z_]+)="((?:[^"\\]|\\["\\n])*)"(,|$)/y;
const VALUE = /^(?:[+-]?Inf|NaN|-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)$/;

function parseLabels(text: string): Map<string, string> {
  const labels = new Map<string, string>();
  LABEL.lastIndex = 0;
  while (LABEL.lastIndex < text.length) {
    const match = LABEL.exec(text);
    if (match === null) throw new Error(`bad labels: ${text}`);
    const [, name = "", raw = ""] = match;
    if (labels.has(name)) throw new Error(`label ${name} appears twice: ${text}`);
    labels.set(
      name,
      raw.replace(/\\(.)/g, (_, c: string) => (c === "n" ? "\n" : c)),
    );
  }
  return labels;
}

function parseSample(line: string, family: string, type: string): ParsedSample {
  const match = SAMPLE.exec(line);
  if (match === null) throw new Error(`bad sample: ${line}`);
  const [, name = "", labels = "", value = ""] = match;
  const suffixes = type === "histogram" ? ["_bucket", "_sum", "_count"] : [""];
  if (!suffixes.some((suffix) => name === family + suffix)) throw new Error(`${name} within family ${family}`);
  if (!VALUE.test(value)) throw new Error(`bad value: ${line}`);
  return { name, labels: parseLabels(labels), value: Number(value.replace("Inf", "Infinity")) };
}

/** Families by name. Every family has HELP, then TYPE, then its samples, once; no series appears twice. */
export function parseExposition(text: string): Map<string, ParsedFamily> {
  if (!text.endsWith("\n")) throw new Error("the last line must end");
  const families = new Map<string, ParsedFamily>();
  const seen = new Set<string>();
  const lines = text.split("\n").filter((line) => line !== "");
  for (let i = 0; i < lines.length; ) {
    const help = HELP.exec(lines[i++] ?? "");
    const type = TYPE.exec(lines[i++] ?? "");
    if (help === null || type === null || help[1] !== type[1])
      throw new Error(`HELP and TYPE expected at ${lines[i - 2]}`);
    const [, name = "", helpText = ""] = help;
    if (families.has(name)) throw new Error(`family ${name} appears twice`);
    const samples: ParsedSample[] = [];
    for (; i < lines.length && !lines[i]?.startsWith("#"); i++) {
      const sample = parseSample(lines[i] ?? "", name, type[2] ?? "");
      const series = JSON.stringify([sample.name, [...sample.labels].sort()]);
      if (seen.has(series)) throw new Error(`series appears twice: ${series}`);
      seen.add(series);
      samples.push(sample);
    }
    families.set(name, { help: helpText, type: type[2] ?? "", samples });
  }
  return families;
}
