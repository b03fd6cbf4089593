/** What a figure should be, said beside it. */
export interface Aim {
  readonly what: string;
  readonly value: number;
  /** "at least 0.9", "below 2 ms". */
  readonly aim: string;
  readonly met: boolean;
}

export function atLeast(what: string, value: number, bound: number): Aim {
  return { what, value, aim: `at least ${bound}`, met: value >= bound };
}

export function atMost(what: string, value: number, bound: number, unit = ""): Aim {
  return { what, value, aim: `at most ${bound}${unit}`, met: value <= bound };
}

export function below(what: string, value: number, bound: number, unit = ""): Aim {
  return { what, value, aim: `below ${bound}${unit}`, met: value < bound };
}

export function formatAims(aims: readonly Aim[]): string {
  return aims
    .map(({ what, value, aim, met }) => {
      const figure = Number.isInteger(value) ? value : value.toPrecision(3);
      return `${met ? "met   " : "MISSED"}  ${what}: ${figure}, aim: ${aim}`;
    })
    .join("\n");
}
