/**
 * One job in a process of its own, for code that is known to be wrong: where V8 grows a huge array at a thread's heap limit,
 * it ends the whole process. Arguments: the job, the worker's URL and hangMs, in JSON. Prints the failure, or null.
 */
import { type Job, supervise } from "./supervisor.js";

interface Order {
  readonly job: Job;
  readonly workerUrl: string;
  readonly hangMs: number;
}

const { job, workerUrl, hangMs } = JSON.parse(process.argv[2] ?? "") as Order;
const { failure } = await supervise(job, { workerUrl: new URL(workerUrl), hangMs });
console.log(JSON.stringify(failure === null ? null : { message: failure.message, bytes: failure.input.length }));
