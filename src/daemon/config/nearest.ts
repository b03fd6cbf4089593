import { closest } from "fastest-levenshtein";

/** The known name that is the fewest edits away; case and the choice of `-` or `_` do not count. */
export function nearest(name: string, known: readonly string[]): string {
  const byNormal = new Map(known.map((candidate) => [normal(candidate), candidate]));
  const found = closest(normal(name), [...byNormal.keys()]);
  return byNormal.get(found) ?? found;
}

function normal(name: string): string {
  return name.toLowerCase().replaceAll("-", "_");
}
