// BullMQ through the proxy: `bullmq.cjs PORT LOCK_MS`.
//
// Four producers add 1,000 jobs, one after the other, while three workers process them; every tenth job fails at first and is
// tried again. A producer tries again with the same id when it is not told that its job was added. `a third` and `two thirds` are
// said when so many have been added, and nothing waits then: what is done to the cluster happens in the midst of the work. `done`
// on standard input says that it was done.
"use strict";

const { Queue, QueueEvents, Worker } = require("bullmq");
const readline = require("node:readline");
const { setTimeout: sleep } = require("node:timers/promises");

const JOBS = 1000;
const PRODUCERS = 4;
// Connections that are gone are opened again at once: what is tested is not patience.
const connection = {
  host: "127.0.0.1",
  port: Number(process.argv[2]),
  maxRetriesPerRequest: null,
  retryStrategy: () => 100,
};
const lockDuration = Number(process.argv[3]);
const name = "work";

const told = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const broken = new Set();
const isUnlucky = (n) => n % 10 === 0;
const idOf = (n) => `job-${n}`;

async function main() {
  const queue = new Queue(name, { connection });
  const events = new QueueEvents(name, { connection });
  const processed = new Map();
  const heard = new Set();
  const workers = [0, 1, 2].map(
    () =>
      new Worker(
        name,
        async (job) => {
          processed.set(job.id, (processed.get(job.id) ?? 0) + 1);
          await job.updateProgress(50);
          await sleep(5);
          if (isUnlucky(job.data.n) && job.attemptsMade === 0) throw new Error("unlucky");
          return job.data.n * 2;
        },
        { connection, concurrency: 10, lockDuration, stalledInterval: 2000, maxStalledCount: 10 },
      ),
  );
  for (const part of [queue, events, ...workers]) part.on("error", (e) => broken.add(e.message));
  events.on("completed", ({ jobId }) => heard.add(jobId));
  await events.waitUntilReady();

  const added = new Set();
  const wait = [Math.floor(JOBS / 3), Math.floor((2 * JOBS) / 3)];
  const during = [];
  const ask = async (line) => {
    console.log(line);
    during.push([line, (await told.next()).value, added.size]);
  };
  let asked = Promise.resolve();
  await Promise.all(
    [...Array(PRODUCERS).keys()].map(async (p) => {
      for (let n = p; n < JOBS; n += PRODUCERS) {
        for (;;) {
          try {
            const options = { jobId: idOf(n), attempts: 5, backoff: { type: "fixed", delay: 50 }, priority: n % 3 };
            const job = await queue.add("double", { n }, options);
            added.add(job.id);
            break;
          } catch (e) {
            broken.add(e.message);
            await sleep(50);
          }
        }
        if (added.size === wait[0]) {
          wait.shift();
          const line = wait.length === 1 ? "a third" : "two thirds";
          asked = asked.then(() => ask(line));
        }
      }
    }),
  );
  await asked;
  for (const [line, answer, size] of during) {
    if (answer !== "done" || size === JOBS) throw new Error(`${line}: told ${answer} when ${size} jobs had been added`);
  }
  if (added.size !== JOBS) throw new Error(`${added.size} jobs were added`);

  const open = async () => {
    const counts = await queue.getJobCounts();
    return counts.waiting + counts.active + counts.delayed + counts.prioritized;
  };
  while ((await open()) > 0) await sleep(100);
  const completed = new Map((await queue.getCompleted(0, -1)).map((job) => [job.id, job]));
  const failed = await queue.getFailed(0, -1);
  const lost = [...added].filter((id) => !completed.has(id));
  if (lost.length || failed.length || completed.size !== JOBS) {
    const why = failed.slice(0, 5).map((job) => job.failedReason);
    throw new Error(`${lost.length} lost: ${lost.slice(0, 20)}; ${failed.length} failed: ${why}`);
  }
  for (let n = 0; n < JOBS; n++) {
    const job = completed.get(idOf(n));
    const tries = isUnlucky(n) ? 2 : 1;
    if (job.returnvalue !== n * 2) throw new Error(`${job.id} returned ${job.returnvalue}`);
    if (processed.get(job.id) < tries) throw new Error(`${job.id} was processed ${processed.get(job.id)} times`);
  }
  while (heard.size < JOBS && broken.size === 0) await sleep(50);
  const runs = [...processed.values()].reduce((a, b) => a + b, 0);
  console.log(`${completed.size} completed`);
  console.log(`${runs - JOBS - JOBS / 10} processed again`);
  console.log(`${broken.size} errors`);
  for (const message of broken) console.error(message);
  for (const part of [...workers, events, queue]) await part.close();
}

main().then(
  () => process.exit(0),
  (e) => {
    console.error(e);
    process.exit(1);
  },
);
