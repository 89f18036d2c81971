//! Writes of every kind of data.

use redis::aio::MultiplexedConnection;

/// Runs commands, words between `|`.
///
/// # Panics
/// When one is refused.
pub async fn run(conn: &mut MultiplexedConnection, commands: &str) {
    for line in commands.split('|') {
        let mut words = line.split_whitespace();
        let mut command = redis::cmd(words.next().expect("a command"));
        words.for_each(|w| {
            command.arg(w);
        });
        command
            .exec_async(conn)
            .await
            .unwrap_or_else(|e| panic!("{line}: {e}"));
    }
}

/// A key of each type, another database, one that expires, one that is large, and a function.
///
/// # Panics
/// When something is refused.
pub async fn write_all_types(conn: &mut MultiplexedConnection) {
    run(
        conn,
        "SET s v|RPUSH l a b c|SADD set a b|SADD ints 1 2|ZADD z 1 a 2 b|HSET h f v g w|XADD x 1-1 f v|\
         XADD x 2-1 f v|XGROUP CREATE x g 0|XREADGROUP GROUP g c COUNT 1 STREAMS x >|PFADD p a b|SETBIT b 7 1|\
         GEOADD geo 13.3 52.5 berlin|SET ttl v EX 5000|SET counter 5|INCR counter|SELECT 3|SET elsewhere v|SELECT 0",
    )
    .await;
    let library = "#!lua name=lib\nredis.register_function('f', function() return 1 end)";
    let mut load = redis::cmd("FUNCTION");
    load.arg("LOAD").arg("REPLACE").arg(library);
    load.exec_async(conn).await.expect("FUNCTION LOAD");
    let script = "redis.call('SET', KEYS[1], redis.call('TIME')[1])";
    let mut eval = redis::cmd("EVAL");
    eval.arg(script).arg(1).arg("script");
    eval.exec_async(conn).await.expect("EVAL");
    let mut set = redis::cmd("SET");
    set.arg("large").arg(vec![b'x'; 3 << 20]);
    set.exec_async(conn).await.expect("SET");
}
