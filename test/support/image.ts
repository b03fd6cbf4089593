/**
 * Carries out a Dockerfile without a container runtime: each stage is a directory over a Debian tree, RUN is a command in
 * it, COPY copies. Knows the instructions that this project's Dockerfile has, and throws at any other.
 */
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { Copy, DockerfileParser, type Instruction } from "dockerfile-ast";

const STEP_TIMEOUT_MS = 240_000;

/** What the image tells the runtime. */
export interface ImageConfig {
  user: string;
  workdir: string;
  readonly env: Record<string, string>;
  entrypoint: readonly string[];
  cmd: readonly string[];
  healthcheck: readonly string[];
}

interface Stage {
  readonly root: string;
  readonly config: ImageConfig;
}

export interface BuildOptions {
  readonly dockerfile: string;
  readonly context: string;
  /** Where stages are laid out: `scratch/0` and so on. */
  readonly scratch: string;
  /** Fills `root` with what `image` is; both as written in FROM, arguments put in. */
  from(image: string, root: string): void;
  /** Added to the environment of RUN: where the client of the package registry finds it. */
  readonly env: Readonly<Record<string, string>>;
}

/** A pattern of .dockerignore, as far as this project's has any: names, and `*` for all. Last match counts. */
export function ignored(patterns: readonly string[], name: string): boolean {
  let result = false;
  for (const pattern of patterns) {
    const negated = pattern.startsWith("!");
    const bare = negated ? pattern.slice(1) : pattern;
    if (bare === "*" || name === bare || name.startsWith(`${bare}/`)) result = !negated;
  }
  return result;
}

/** The lines of a .dockerignore that say something. */
export function ignorePatterns(text: string): string[] {
  return text
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "" && !line.startsWith("#"));
}

/** Runs `argv` in `root`, chrooted, with its own /proc and /dev and the network as it is. */
export function runIn(
  root: string,
  argv: readonly string[],
  { env, workdir }: { env: Readonly<Record<string, string>>; workdir: string },
) {
  const mounts = `
mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" &&
touch "$0/etc/resolv.conf" && mount --bind /etc/resolv.conf "$0/etc/resolv.conf" &&
exec chroot "$0" sh -c 'cd "$0" && exec "$@"' "$@"`;
  const args = ["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", mounts, root, workdir, ...argv];
  return spawnSync("unshare", args, {
    encoding: "utf8",
    timeout: STEP_TIMEOUT_MS,
    env: { PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", ...env },
    maxBuffer: 1 << 26,
  });
}

/** Does all that the file says; returns the last stage. Throws with the output of a RUN that fails. */
export function build(options: BuildOptions): Stage {
  const file = DockerfileParser.parse(fs.readFileSync(options.dockerfile, "utf8"));
  const stages = new Map<string, Stage>();
  const args = new Map<string, string>();
  let last: Stage | undefined;
  for (const instruction of file.getInstructions()) {
    const keyword = instruction.getKeyword();
    const text = substitute(instruction.getArgumentsContent() ?? "", args);
    if (keyword === "ARG") {
      const [name = "", value = ""] = text.split("=");
      args.set(name, value);
    } else if (keyword === "FROM") {
      const [image = "", , name = String(stages.size)] = text.split(/\s+/);
      last = { root: path.join(options.scratch, String(stages.size)), config: emptyConfig() };
      fs.mkdirSync(last.root, { recursive: true });
      options.from(image, last.root);
      stages.set(name, last);
    } else {
      if (last === undefined) throw new Error(`${keyword} before FROM`);
      carryOut(options, stages, last, instruction, text);
    }
  }
  if (last === undefined) throw new Error("no FROM");
  return last;
}

function emptyConfig(): ImageConfig {
  return { user: "0", workdir: "/", env: {}, entrypoint: [], cmd: [], healthcheck: [] };
}

function substitute(text: string, args: ReadonlyMap<string, string>): string {
  return text.replace(/\$\{(\w+)\}/g, (whole, name) => args.get(name) ?? whole);
}

function carryOut(
  options: BuildOptions,
  stages: ReadonlyMap<string, Stage>,
  stage: Stage,
  instruction: Instruction,
  text: string,
): void {
  const { config, root } = stage;
  const keyword = instruction.getKeyword();
  switch (keyword) {
    case "WORKDIR":
      config.workdir = text;
      fs.mkdirSync(path.join(root, text), { recursive: true });
      return;
    case "COPY":
      copy(
        options,
        stages,
        stage,
        text,
        instruction instanceof Copy ? instruction.getFromFlag()?.getValue() : undefined,
      );
      return;
    case "RUN": {
      // Lines are joined as the builder does: comments between them go, backslashes too.
      const script = text.replace(/\\\n(\s*#.*\n)*/g, "");
      const env = { ...options.env, ...config.env };
      const { status, stdout, stderr } = runIn(root, ["/bin/sh", "-c", script], { env, workdir: config.workdir });
      if (status !== 0) throw new Error(`RUN ${script}: exit code ${status}\n${stdout}\n${stderr}`);
      return;
    }
    case "ENV":
      for (const [, name = "", value = ""] of text.matchAll(/(\w+)=(\S+)/g)) config.env[name] = value;
      return;
    case "USER":
      config.user = text;
      return;
    case "ENTRYPOINT":
      config.entrypoint = JSON.parse(text) as string[];
      return;
    case "CMD":
      config.cmd = JSON.parse(text) as string[];
      return;
    case "HEALTHCHECK":
      config.healthcheck = JSON.parse(text.slice(text.indexOf("["))) as string[];
      return;
    case "EXPOSE":
    case "VOLUME":
      return;
    default:
      throw new Error(`line ${instruction.getRange().start.line + 1}: ${keyword} is not known here`);
  }
}

function copy(
  options: BuildOptions,
  stages: ReadonlyMap<string, Stage>,
  stage: Stage,
  text: string,
  from: string | null | undefined,
): void {
  const words = text.split(/\s+/);
  const to = words.pop() ?? "";
  const target = path.resolve("/", stage.config.workdir, to);
  const source = from == null ? options.context : stages.get(from)?.root;
  if (source === undefined) throw new Error(`COPY: no stage ${from}`);
  const ignoreFile = `${options.dockerfile}.dockerignore`;
  const patterns = from == null ? ignorePatterns(fs.readFileSync(ignoreFile, "utf8")) : [];
  for (const word of words) {
    const origin = path.join(source, word);
    const intoDirectory = to.endsWith("/") || words.length > 1;
    const isDirectory = fs.statSync(origin).isDirectory();
    const destination = path.join(stage.root, target, intoDirectory && !isDirectory ? path.basename(word) : "");
    fs.cpSync(origin, destination, {
      recursive: true,
      verbatimSymlinks: true,
      filter: (file) => {
        const name = path.relative(source, file);
        // A directory stays where something in it is wanted.
        return name === "" || !ignored(patterns, name) || patterns.some((pattern) => pattern.startsWith(`!${name}/`));
      },
    });
  }
}
