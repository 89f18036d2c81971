// A tour of node-redis through the proxy, under RESP3 and with its cache: `node_redis.cjs PORT`.
//
// Says the name of each part once it has held. At `writing` the proxy is to be killed, and a line on standard input then says that
// this is done.
"use strict";

const assert = require("node:assert/strict");
const readline = require("node:readline");
const { setTimeout: sleep } = require("node:timers/promises");
const { createClient, BasicClientSideCache } = require("redis");

const port = Number(process.argv[2]);
const told = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const range = (n) => [...Array(n).keys()];
const opened = [];

async function client(options = {}) {
  const socket = { host: "127.0.0.1", port, reconnectStrategy: () => 100 };
  const made = createClient({ RESP: 3, socket, ...options });
  // What breaks a connection is seen by what was asked on it.
  made.on("error", () => {});
  opened.push(made);
  return made.connect();
}

async function values(r) {
  assert.equal(await r.set("s", "é"), "OK");
  assert.equal(await r.get("s"), "é");
  assert.equal(await r.hSet("h", { a: 1, b: 2 }), 2);
  assert.deepEqual({ ...(await r.hGetAll("h")) }, { a: "1", b: "2" });
  assert.equal(await r.zAdd("z", { score: 2.5, value: "a" }), 1);
  assert.equal(await r.zScore("z", "a"), 2.5);
  await assert.rejects(r.lPush("s", "x"), /WRONGTYPE/);
  await assert.rejects(r.sendCommand(["SHUTDOWN"]), /refused by Redoubt/);
}

// What is asked in one turn of the event loop is sent at once.
async function auto_pipelining(r) {
  const counted = await Promise.all(range(2000).map(() => r.incr("auto")));
  assert.deepEqual(counted, range(2000).map((n) => n + 1));
}

async function transactions(r) {
  assert.deepEqual(await r.multi().set("t", "1").incr("t").get("t").exec(), ["OK", 2, "2"]);
  const other = await client();
  await r.watch("t");
  await other.set("t", "another's");
  await assert.rejects(r.multi().set("t", "mine").exec(), /watched/i);
  assert.equal(await r.get("t"), "another's");
}

async function pub_sub(r) {
  const hears = await client();
  const heard = { plain: [], pattern: [], shard: [] };
  await hears.subscribe("news", (text) => heard.plain.push(text));
  await hears.pSubscribe("n?ws", (text) => heard.pattern.push(text));
  await hears.sSubscribe("shard", (text) => heard.shard.push(text));
  for (const n of range(100)) assert.equal(await r.publish("news", String(n)), 2);
  assert.equal(await r.sPublish("shard", "hello"), 1);
  // Under RESP3 the same connection answers commands too.
  assert.equal(await hears.set("subscribed", "too"), "OK");
  while (heard.shard.length === 0) await sleep(5);
  const wanted = range(100).map(String);
  assert.deepEqual(heard, { plain: wanted, pattern: wanted, shard: ["hello"] });
}

// A read from the cache is never older than a write that was acknowledged to anybody, once its invalidation has come.
async function client_side_cache(r) {
  const cache = new BasicClientSideCache({ ttl: 0, maxEntries: 100 });
  const cached = await client({ clientSideCache: cache });
  for (const n of range(100)) {
    await r.set("cached", String(n));
    while ((await cached.get("cached")) !== String(n)) await sleep(1);
    const before = cache.stats().hitCount;
    assert.equal(await cached.get("cached"), String(n));
    assert.equal(cache.stats().hitCount, before + 1);
  }
}

// A command that was under way when the connection broke fails, and is asked again here: each key once, always the same value.
async function through_a_kill(r) {
  const hears = await client();
  const heard = new Set();
  await hears.subscribe("again", (text) => heard.add(text));
  let killed = false;
  let failed = 0;
  const counts = range(8).map(() => 0);
  const writers = range(8).map(async (w) => {
    for (let left = 100; left > 0; left -= killed ? 1 : 0) {
      try {
        assert.equal(await r.set(`kept:${w}:${counts[w]}`, String(counts[w])), "OK");
        counts[w]++;
      } catch (e) {
        if (e instanceof assert.AssertionError) throw e;
        failed++;
        await sleep(20);
      }
    }
  });
  while (Math.min(...counts) < 50) await sleep(5);
  console.log("writing");
  assert.equal((await told.next()).value, "killed");
  while (failed === 0) await sleep(5);
  killed = true;
  await Promise.all(writers);
  for (const w of range(8)) {
    const keys = range(counts[w]).map((n) => `kept:${w}:${n}`);
    assert.deepEqual((await r.mGet(keys)).map(Number), range(counts[w]));
  }
  // The subscription is there again, without being asked for.
  for (let n = 0; heard.size === 0; n++) {
    await r.publish("again", String(n));
    await sleep(20);
  }
}

async function main() {
  for (const part of [values, auto_pipelining, transactions, pub_sub, client_side_cache, through_a_kill]) {
    await part(await client());
    console.log(part.name);
    while (opened.length) opened.pop().destroy();
  }
}

main().then(
  () => process.exit(0),
  (e) => {
    console.error(e);
    process.exit(1);
  },
);
