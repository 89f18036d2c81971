"""A tour of redis-py through the proxy: `redis_py.py PORT PROTOCOL`.

Prints the name of each part once it has held. At `writing` the proxy is to be killed, and a line on standard input then
says that this is done.
"""

import asyncio
import sys
import threading
import time

import redis
import redis.asyncio
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

PORT, PROTOCOL = int(sys.argv[1]), int(sys.argv[2])


def client(**options):
    options = {"decode_responses": True, "socket_timeout": 30, **options}
    return redis.Redis(host="127.0.0.1", port=PORT, protocol=PROTOCOL, **options)


def equal(found, wanted):
    if found != wanted:
        raise AssertionError(f"{found!r} instead of {wanted!r}")


def str_of(text):
    return text.decode() if isinstance(text, bytes) else text


def fails(error, words, call, *args, **kwargs):
    try:
        found = call(*args, **kwargs)
    except error as e:
        if words not in str(e):
            raise AssertionError(f"{e} does not say {words!r}") from e
    else:
        raise AssertionError(f"{found!r} instead of an error that says {words!r}")


def together(count, work):
    """Runs `work(0) … work(count - 1)` in threads; an error in one is an error here."""
    errors = []

    def run(n):
        try:
            work(n)
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def values(r):
    equal(r.set("s", "é"), True)
    equal(r.get("s"), "é")
    equal(r.set("s", "x", nx=True), None)
    equal(r.set("s", "y", get=True), "é")
    equal(r.get("absent"), None)
    equal(r.incrbyfloat("f", 0.5), 0.5)
    equal(r.setrange("s", 3, "z"), 4)
    big = bytes(range(256)) * 20_000
    raw = client(decode_responses=False)
    equal(raw.set("big", big), True)
    equal(raw.get("big"), big)
    equal(r.set("ttl", "v", px=60_000), True)
    equal(50_000 < r.pttl("ttl") <= 60_000, True)
    equal(r.set("gone", "v", px=20), True)
    time.sleep(0.03)
    equal(r.get("gone"), None)
    equal(r.hset("h", mapping={"a": 1, "b": 2}), 2)
    equal(r.hgetall("h"), {"a": "1", "b": "2"})
    equal(r.zadd("z", {"a": 1, "b": 2.5}), 2)
    equal(r.zscore("z", "b"), 2.5)
    scored = r.zrange("z", 0, -1, withscores=True)
    equal([tuple(pair) for pair in scored], [("a", 1.0), ("b", 2.5)])
    equal(r.sadd("set", "a", "b"), 2)
    equal(r.smembers("set"), {"a", "b"})
    equal(r.spop("set") in {"a", "b"}, True)
    equal(r.pfadd("hll", *range(100)), 1)
    equal(r.geoadd("geo", (13.361389, 38.115556, "Palermo")), 1)
    equal(r.bitfield("bits").set("u8", 0, 255).get("u4", 0).execute(), [0, 15])
    other = client(db=3)
    equal(other.set("only", "here"), True)
    equal(r.get("only"), None)
    fails(redis.ResponseError, "WRONGTYPE", r.lpush, "s", "x")
    fails(redis.ResponseError, "refused by Redoubt", r.execute_command, "REPLICAOF", "NO", "ONE")
    equal(r.ping(), True)


def pipelines(r):
    pipe = r.pipeline(transaction=False)
    for n in range(5000):
        pipe.incr("piped")
    equal(pipe.execute(), list(range(1, 5001)))
    pipe = r.pipeline(transaction=False).set("p", 1).lpush("p", 2).execute_command("SHUTDOWN").incr("p")
    ok, wrong, refused, two = pipe.execute(raise_on_error=False)
    equal((ok, two), (True, 2))
    equal("WRONGTYPE" in str(wrong) and "refused by Redoubt" in str(refused), True)


def transactions(r):
    equal(r.pipeline().set("t", 1).incr("t").get("t").execute(), [True, 2, "2"])
    failed = r.pipeline().set("t", 1).execute_command("PSYNC", "?", "-1")
    fails(redis.ResponseError, "refused by Redoubt", failed.execute)
    equal(r.get("t"), "2")
    # Each reads, then writes what it read plus one: without WATCH some of the 100 would be lost.
    lost = [0] * 5

    def count(n):
        mine = client()
        for _ in range(20):
            while True:
                pipe = mine.pipeline()
                try:
                    pipe.watch("counter")
                    now = int(pipe.get("counter") or 0)
                    pipe.multi()
                    pipe.set("counter", now + 1)
                    pipe.rpush("counted", now + 1)
                    pipe.execute()
                    break
                except redis.WatchError:
                    lost[n] += 1
                finally:
                    pipe.reset()

    together(5, count)
    equal(r.get("counter"), "100")
    equal(r.lrange("counted", 0, -1), [str(n) for n in range(1, 101)])
    equal(sum(lost) > 0, True)
    with r.lock("lock", timeout=20):
        equal(client().lock("lock", blocking=False).acquire(), False)


def next_message(pubsub, kind):
    end = time.monotonic() + 20
    while time.monotonic() < end:
        found = pubsub.get_message(timeout=1)
        if found:
            equal(found["type"], kind)
            return found
    raise AssertionError(f"no {kind}")


def pub_sub(r):
    pubsub = r.pubsub()
    pubsub.subscribe("news")
    equal(next_message(pubsub, "subscribe")["channel"], "news")
    pubsub.psubscribe("n?ws*")
    next_message(pubsub, "psubscribe")
    together(4, lambda n: [client().publish("news", f"{n}:{i}") for i in range(25)])
    plain = [next_message(pubsub, kind)["data"] for kind in ["message", "pmessage"] * 100]
    equal(sorted(plain), sorted(f"{n}:{i}" for n in range(4) for i in range(25) for _ in range(2)))
    for n in range(4):
        mine = [text for text in plain[::2] if text.startswith(f"{n}:")]
        equal(mine, [f"{n}:{i}" for i in range(25)])
    pubsub.unsubscribe()
    pubsub.punsubscribe()
    next_message(pubsub, "unsubscribe")
    next_message(pubsub, "punsubscribe")
    pubsub.close()
    heard = []
    pubsub = r.pubsub()
    pubsub.subscribe(**{"work": heard.append})
    thread = pubsub.run_in_thread(sleep_time=0.01)
    while r.publish("work", "now") == 0 or not heard:
        time.sleep(0.01)
    thread.stop()
    thread.join()
    equal(heard[0]["data"], "now")


def sharded_pub_sub(r):
    pubsub = r.pubsub()
    pubsub.ssubscribe("shard")
    next_message(pubsub, "ssubscribe")
    equal(r.execute_command("SPUBLISH", "shard", "hello"), 1)
    equal(next_message(pubsub, "smessage")["data"], "hello")
    equal(r.pubsub_shardnumsub("shard"), [("shard", 1)])
    pubsub.sunsubscribe()
    next_message(pubsub, "sunsubscribe")
    pubsub.close()


def blocking_pops(r):
    # 200 elements for six takers, each by another command.
    takers = [
        lambda mine: mine.blpop("queue", 0.5),
        lambda mine: mine.brpop(["nothing", "queue"], 0.5),
        lambda mine: mine.blmove("queue", "taken", 0.5),
        lambda mine: mine.brpoplpush("queue", "taken", 1),
        lambda mine: mine.blmpop(0.5, 1, "queue", direction="LEFT", count=3),
        lambda mine: mine.blpop("queue", 0.5),
    ]
    taken, pushed = [], threading.Event()

    def take(n):
        mine = client()
        while True:
            got = takers[n](mine)
            if got is None:
                if pushed.is_set():
                    return
            elif n == 4:
                taken.extend(got[1])
            else:
                taken.append(got if isinstance(got, str) else got[1])

    def push():
        for n in range(200):
            r.rpush("queue", n)
        pushed.set()

    together(7, lambda n: push() if n == 6 else take(n))
    equal(sorted(map(int, taken)), list(range(200)))
    equal(r.llen("queue"), 0)
    began = time.monotonic()
    equal(r.bzpopmin("nothing", 1), None)
    equal(0.9 < time.monotonic() - began < 5, True)


def scripts(r):
    script = r.register_script("redis.call('incrby', KEYS[1], ARGV[1]); return {KEYS[1], redis.call('get', KEYS[1])}")
    equal(script(keys=["scripted"], args=[5]), ["scripted", "5"])
    r.script_flush()
    equal(script(keys=["scripted"], args=[5]), ["scripted", "10"])
    half = "redis.call('set', KEYS[1], 'half'); return redis.call('lpush', KEYS[1], 1)"
    fails(redis.ResponseError, "WRONGTYPE", r.eval, half, 1, "half")
    equal(r.get("half"), "half")
    fails(redis.exceptions.NoScriptError, "No matching script", r.evalsha, "0" * 40, 0)


def functions(r):
    code = "redis.register_function('tour_add', function(k, a) return redis.call('incrby', k[1], a[1]) end)"
    equal(r.function_load(f"#!lua name=tour\n{code}", replace=True), "tour")
    equal(r.fcall("tour_add", 1, "called", 7), 7)
    fails(redis.ResponseError, "Function not found", r.fcall, "no_such", 0)
    equal(len(r.function_list("tour")), 1)


def streams(r):
    equal(r.xgroup_create("stream", "group", id="0", mkstream=True), True)
    left = 3

    def consume(n):
        mine = client()
        while True:
            got = mine.xreadgroup("group", f"c{n}", {"stream": ">"}, count=7, block=500)
            if not got:
                return
            [entries] = got.values() if isinstance(got, dict) else [entries for _, entries in got]
            entries = entries[0] if isinstance(got, dict) else entries
            pipe = mine.pipeline()
            for entry, fields in entries:
                # Some are taken and left to be claimed.
                if int(fields["n"]) >= left:
                    pipe.sadd("consumed", fields["n"]).xack("stream", "group", entry)
            pipe.execute()

    def produce():
        for n in range(150):
            r.xadd("stream", {"n": n})

    together(4, lambda n: produce() if n == 3 else consume(n))
    equal(r.scard("consumed"), 150 - left)
    equal(r.xpending("stream", "group")["pending"], left)
    claimed = r.xautoclaim("stream", "group", "heir", min_idle_time=0)[1]
    equal([fields["n"] for _, fields in claimed], [str(n) for n in range(left)])
    equal(r.xack("stream", "group", *[entry for entry, _ in claimed]), left)
    equal(r.xlen("stream"), 150)
    equal(r.xtrim("stream", maxlen=10, approximate=False), 140)
    equal(len(r.xrange("stream")), 10)


def scans(r):
    pipe = r.pipeline(transaction=False)
    for n in range(1000):
        pipe.set(f"scanned:{n}", n)
    pipe.execute()
    equal({int(key[8:]) for key in r.scan_iter("scanned:*", count=50)}, set(range(1000)))
    r.hset("wide", mapping={f"f{n}": n for n in range(1000)})
    equal(dict(r.hscan_iter("wide", count=100)), {f"f{n}": str(n) for n in range(1000)})
    r.zadd("wide:z", {f"m{n}": n for n in range(500)})
    equal(sum(1 for _ in r.zscan_iter("wide:z")), 500)


def invalidations(r):
    """Who read a key under CLIENT TRACKING is told when it changes: by a push, or by way of a subscription."""
    heard = []
    cached = client(single_connection_client=True)
    if PROTOCOL == 3:
        cached.connection._parser.set_invalidation_push_handler(heard.append)
        cached.execute_command("CLIENT", "TRACKING", "ON")
    else:
        told = client(client_name="told").pubsub()
        told.subscribe("__redis__:invalidate")
        next_message(told, "subscribe")
        [hears] = [c["id"] for c in r.client_list() if c["name"] == "told"]
        cached.execute_command("CLIENT", "TRACKING", "ON", "REDIRECT", hears)
    for n in range(50):
        cached.get("tracked")
        cached.get("other")
        r.set("tracked", n)
        equal(cached.get("tracked"), str(n))
        if PROTOCOL == 2:
            heard.append(next_message(told, "message")["data"])
    if PROTOCOL == 3:
        heard = [keys for _, keys in heard]
    equal([[str_of(key) for key in keys] for keys in heard], [["tracked"]] * 50)


def threads(r):
    """One pool of 16 connections for 32 threads."""
    pool = redis.BlockingConnectionPool(
        host="127.0.0.1", port=PORT, protocol=PROTOCOL, decode_responses=True, max_connections=16, timeout=60
    )
    shared = redis.Redis(connection_pool=pool)

    def work(n):
        for i in range(50):
            key = f"thread:{n}:{i}"
            equal(shared.set(key, f"{n}-{i}"), True)
            equal(shared.get(key), f"{n}-{i}")
            shared.incr("threads")

    together(32, work)
    equal(shared.get("threads"), "1600")
    pool.disconnect()


def tasks(r):
    """The same library's asyncio half."""

    async def tour():
        options = {"decode_responses": True, "protocol": PROTOCOL, "socket_timeout": 30}
        shared = redis.asyncio.Redis(host="127.0.0.1", port=PORT, **options)

        async def work(n):
            async with shared.pipeline(transaction=True) as pipe:
                for i in range(20):
                    pipe.set(f"task:{n}:{i}", i).get(f"task:{n}:{i}").incr("tasks")
                answers = await pipe.execute()
            equal(answers[:2] + answers[3:5], [True, "0", True, "1"])

        await asyncio.gather(*(work(n) for n in range(30)))
        equal(await shared.get("tasks"), "600")
        await shared.aclose()

    asyncio.run(tour())


def through_a_kill(r):
    """Threads that retry what failed. What they write may be written twice: each key once, always the same."""
    again = client(retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 60), socket_timeout=30)
    killed, acked = threading.Event(), [0] * 8

    def write(n):
        left = 100
        while left:
            left -= killed.is_set()
            equal(again.set(f"kept:{n}:{acked[n]}", acked[n]), True)
            acked[n] += 1

    def watch():
        while min(acked) < 50:
            time.sleep(0.01)
        print("writing", flush=True)
        equal(sys.stdin.readline(), "killed\n")
        killed.set()

    together(9, lambda n: watch() if n == 8 else write(n))
    for n, count in enumerate(acked):
        wanted = [str(i) for i in range(count)]
        equal(r.mget([f"kept:{n}:{i}" for i in range(count)]), wanted)


PARTS = [
    values,
    pipelines,
    transactions,
    pub_sub,
    sharded_pub_sub,
    blocking_pops,
    scripts,
    functions,
    streams,
    scans,
    invalidations,
    threads,
    tasks,
    through_a_kill,
]

for part in PARTS:
    part(client())
    print(part.__name__, flush=True)
