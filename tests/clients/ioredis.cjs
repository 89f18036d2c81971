// A tour of ioredis through the proxy: `ioredis.cjs PORT`.
//
// Says the name of each part once it has held. At `writing` the proxy is to be killed, and a line on standard input then says that
// this is done.
"use strict";

const assert = require("node:assert/strict");
const readline = require("node:readline");
const { setTimeout: sleep } = require("node:timers/promises");
const Redis = require("ioredis");

const port = Number(process.argv[2]);
const told = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const range = (n) => [...Array(n).keys()];
const opened = [];

function client(options = {}) {
  const made = new Redis({ host: "127.0.0.1", port, ...options });
  opened.push(made);
  return made;
}

async function values(r) {
  const big = Buffer.alloc(5_000_000, "é");
  assert.equal(await r.set("big", big), "OK");
  assert.ok(big.equals(await r.getBuffer("big")));
  assert.equal(await r.set("ttl", "v", "PX", 60_000), "OK");
  assert.ok((await r.pttl("ttl")) > 50_000);
  assert.equal(await r.hset("h", { a: 1, b: 2 }), 2);
  assert.deepEqual(await r.hgetall("h"), { a: "1", b: "2" });
  assert.equal(await r.zadd("z", 1, "a", 2.5, "b"), 2);
  assert.deepEqual(await r.zrange("z", 0, -1, "WITHSCORES"), ["a", "1", "b", "2.5"]);
  const other = client({ db: 4, keyPrefix: "p:" });
  assert.equal(await other.set("only", "here"), "OK");
  assert.equal(await r.get("p:only"), null);
  await assert.rejects(r.lpush("big", 1), /WRONGTYPE/);
  await assert.rejects(r.call("REPLICAOF", "NO", "ONE"), /refused by Redoubt/);
}

async function pipelines(r) {
  const pipe = r.pipeline();
  for (let n = 0; n < 5000; n++) pipe.incr("piped");
  const answers = await pipe.exec();
  assert.deepEqual(answers, range(5000).map((n) => [null, n + 1]));
  const mixed = await r.pipeline().set("p", 1).lpush("p", 1).call("SHUTDOWN").incr("p").exec();
  assert.match(mixed[1][0].message, /WRONGTYPE/);
  assert.match(mixed[2][0].message, /refused by Redoubt/);
  assert.deepEqual([mixed[0], mixed[3]], [[null, "OK"], [null, 2]]);
}

async function auto_pipelining() {
  const r = client({ enableAutoPipelining: true });
  const counted = await Promise.all(range(2000).map(() => r.incr("auto")));
  assert.deepEqual(counted, range(2000).map((n) => n + 1));
  const found = await Promise.all(range(500).map(async (n) => {
    await r.set(`auto:${n}`, n);
    return Number(await r.get(`auto:${n}`));
  }));
  assert.deepEqual(found, range(500));
}

async function transactions(r) {
  assert.deepEqual(await r.multi().set("t", 1).incr("t").get("t").exec(), [[null, "OK"], [null, 2], [null, "2"]]);
  await r.multi({ pipeline: false });
  assert.equal(await r.set("t", 5), "QUEUED");
  await assert.rejects(r.call("REPLICAOF", "NO", "ONE"), /refused by Redoubt/);
  await assert.rejects(r.exec(), /EXECABORT/);
  assert.equal(await r.get("t"), "2");
  // Each reads, then writes what it read plus one: without WATCH some of the 100 would be lost.
  let lost = 0;
  await Promise.all(range(5).map(async () => {
    const mine = client();
    for (let done = 0; done < 20; ) {
      await mine.watch("counter");
      const now = Number(await mine.get("counter"));
      if (await mine.multi().set("counter", now + 1).rpush("counted", now + 1).exec()) done++;
      else lost++;
    }
  }));
  assert.equal(await r.get("counter"), "100");
  assert.deepEqual((await r.lrange("counted", 0, -1)).map(Number), range(100).map((n) => n + 1));
  assert.ok(lost > 0);
}

async function pub_sub(r) {
  const hears = client();
  const heard = { message: [], pmessage: [], smessage: [] };
  hears.on("message", (channel, text) => heard.message.push([channel, text]));
  hears.on("pmessage", (_, channel, text) => heard.pmessage.push([channel, text]));
  const shard = client();
  shard.on("smessage", (channel, text) => heard.smessage.push([channel, text]));
  assert.equal(await hears.subscribe("news", "more"), 2);
  assert.equal(await hears.psubscribe("n?ws"), 3);
  assert.equal(await shard.ssubscribe("shard"), 1);
  for (let n = 0; n < 100; n++) assert.equal(await r.publish("news", n), 2);
  assert.equal(await r.spublish("shard", "hello"), 1);
  while (heard.smessage.length === 0) await sleep(5);
  const wanted = range(100).map((n) => ["news", String(n)]);
  assert.deepEqual(heard, { message: wanted, pmessage: wanted, smessage: [["shard", "hello"]] });
  // Named: without names the library waits for ever, also with plain Redis.
  assert.equal(await hears.unsubscribe("news", "more"), 1);
  assert.equal(await hears.punsubscribe("n?ws"), 0);
  assert.equal(await shard.sunsubscribe("shard"), 0);
  assert.equal(await hears.ping(), "PONG");
}

async function blocking_pops(r) {
  const taken = [];
  const takers = range(4).map(async (n) => {
    const mine = client();
    for (;;) {
      const got = n % 2 ? await mine.blmove("queue", "taken", "LEFT", "RIGHT", 0) : (await mine.blpop("queue", 0))[1];
      if (got === "end") return;
      taken.push(Number(got));
    }
  });
  for (const n of range(200)) await r.rpush("queue", n);
  await r.rpush("queue", ...takers.map(() => "end"));
  await Promise.all(takers);
  assert.deepEqual(taken.sort((a, b) => a - b), range(200));
}

async function scripts(r) {
  r.defineCommand("addTo", { numberOfKeys: 1, lua: "return redis.call('incrby', KEYS[1], ARGV[1])" });
  assert.equal(await r.addTo("scripted", 5), 5);
  await r.script("FLUSH");
  assert.equal(await r.addTo("scripted", 5), 10);
  const code = "#!lua name=nodetour\nredis.register_function('node_add', function(k, a) return redis.call('incrby', k[1], a[1]) end)";
  assert.equal(await r.function("LOAD", "REPLACE", code), "nodetour");
  assert.equal(await r.fcall("node_add", 1, "called", 7), 7);
}

async function streams(r) {
  await r.xgroup("CREATE", "stream", "group", "0", "MKSTREAM");
  const consumed = new Set();
  const consumers = range(3).map(async (n) => {
    const mine = client();
    for (;;) {
      const got = await mine.xreadgroup("GROUP", "group", `c${n}`, "COUNT", 7, "BLOCK", 1000, "STREAMS", "stream", ">");
      if (got === null) return;
      for (const [id, [, value]] of got[0][1]) {
        consumed.add(Number(value));
        assert.equal(await mine.xack("stream", "group", id), 1);
      }
    }
  });
  for (const n of range(150)) await r.xadd("stream", "*", "n", n);
  await Promise.all(consumers);
  assert.equal(consumed.size, 150);
  assert.equal((await r.xpending("stream", "group"))[0], 0);
}

async function scans(r) {
  await Promise.all(range(1000).map((n) => r.set(`scanned:${n}`, n)));
  const found = new Set();
  for await (const keys of r.scanStream({ match: "scanned:*", count: 50 })) for (const key of keys) found.add(key);
  assert.equal(found.size, 1000);
}

// Commands that were under way when the connection broke are sent again by the library: each key once, always the same value.
async function through_a_kill() {
  const r = client({ maxRetriesPerRequest: null, retryStrategy: () => 100 });
  const hears = client({ retryStrategy: () => 100 });
  const heard = new Set();
  hears.on("message", (_, text) => heard.add(text));
  r.on("error", () => {});
  hears.on("error", () => {});
  await hears.subscribe("again");
  let killed = false;
  const counts = range(8).map(() => 0);
  const writers = range(8).map(async (w) => {
    for (let left = 100; left > 0; left -= killed ? 1 : 0) {
      assert.equal(await r.set(`kept:${w}:${counts[w]}`, counts[w]), "OK");
      counts[w]++;
    }
  });
  while (Math.min(...counts) < 50) await sleep(5);
  const closed = new Promise((resolve) => r.once("close", resolve));
  console.log("writing");
  assert.equal((await told.next()).value, "killed");
  await closed;
  killed = true;
  await Promise.all(writers);
  for (const w of range(8)) {
    const keys = range(counts[w]).map((n) => `kept:${w}:${n}`);
    assert.deepEqual((await r.mget(keys)).map(Number), range(counts[w]));
  }
  // The subscription is there again, without being asked for.
  for (let n = 0; heard.size === 0; n++) {
    await r.publish("again", n);
    await sleep(20);
  }
}

const parts = [
  values,
  pipelines,
  auto_pipelining,
  transactions,
  pub_sub,
  blocking_pops,
  scripts,
  streams,
  scans,
  through_a_kill,
];

async function main() {
  for (const part of parts) {
    await part(...(part.length > 0 ? [client()] : []));
    console.log(part.name);
    while (opened.length) opened.pop().disconnect();
  }
}

main().then(
  () => process.exit(0),
  (e) => {
    console.error(e);
    process.exit(1);
  },
);
