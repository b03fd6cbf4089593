#!/usr/bin/env node
/** The daemon's process: arguments in, exit code out. */
import { readFileSync } from "node:fs";
import { isatty } from "node:tty";
import { ConfigError } from "./config/errors.js";
import { loadConfig, processIo } from "./config/load.js";
import { startDaemon } from "./daemon.js";
import { createLogger } from "./observe/log.js";
import { Service } from "./service-manager/service.js";

const { version } = JSON.parse(readFileSync(new URL("../../../package.json", import.meta.url), "utf8")) as {
  version: string;
};

/** sysexits.h, which service managers and scripts know. */
const EX_CONFIG = 78;

/** Streams, server and dispatchers have their own, shorter bounds. */
const STOP_MS_MAX = 15_000;
const ECHO_MS = 1000;
const STDIN_FD = 0;

async function main(): Promise<void> {
  const argv = process.argv.slice(2);
  const result = loadConfig(argv, process.env, processIo(version));
  if (result.action === "print") {
    process.stdout.write(result.text);
    return;
  }
  const log = createLogger(result.config.logLevel);
  log.info({ version, node: process.version, pid: process.pid }, "starting");
  const service = new Service({
    env: process.env,
    pid: process.pid,
    log,
    load: () => {
      const again = loadConfig(argv, process.env, processIo(version));
      // The same flags as before: there is nothing to print.
      return again.action === "run" ? again.config : result.config;
    },
  });
  const fail = (error: unknown): void => {
    service.failed(error as Error);
    log.fatal({ err: error }, (error as Error).message);
    process.exit(1);
  };
  process.on("uncaughtException", fail);
  process.on("unhandledRejection", fail);
  let stopping = false;
  let stoppingSinceMs = 0;
  const stop = (signal: NodeJS.Signals): void => {
    if (stopping) {
      // A terminal signals the whole group, and npm passes its own on: one Ctrl-C comes twice.
      if (performance.now() - stoppingSinceMs < ECHO_MS) return;
      log.warn({ signal }, "told twice to stop: leaving at once");
      process.exit(1);
    }
    stopping = true;
    stoppingSinceMs = performance.now();
    log.info({ signal }, "stopping");
    service.stopping();
    // Whatever hangs: a service manager that has to kill says less than this line.
    setTimeout(() => fail(new Error(`not stopped within ${STOP_MS_MAX / 1000} s`)), STOP_MS_MAX).unref();
    daemon
      // A terminal's Ctrl-C is meant to end all; a service manager does not say whether it will start another daemon.
      .then((running) => running.stop({ keep: signal === "SIGTERM" && result.config.restart === "keep" }))
      .then(() => {
        log.info("stopped");
        process.exit(0);
      }, fail);
  };
  process.on("SIGTERM", stop);
  process.on("SIGINT", stop);
  // On a terminal it says that the terminal is gone; from anywhere else it means what it means to daemons.
  process.on("SIGHUP", isatty(STDIN_FD) ? stop : () => service.reload());
  const daemon = startDaemon(result.config, version, log, fail);
  try {
    service.started(await daemon);
  } catch (error) {
    service.failed(error as Error);
    process.stderr.write(`nmid: ${(error as Error).message}\n`);
    process.exitCode = 1;
    process.off("SIGTERM", stop);
    process.off("SIGINT", stop);
  }
}

try {
  await main();
} catch (error) {
  if (!(error instanceof ConfigError)) throw error;
  process.stderr.write(`nmid: ${error.message}\n`);
  process.exitCode = EX_CONFIG;
}
