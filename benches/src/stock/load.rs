//! One run of `redis-benchmark`.

use tokio::process::Command;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    /// `SET` or `GET`.
    test: &'static str,
    clients: u32,
    /// Requests of a client at a time.
    pipeline: u64,
    /// Of a value.
    bytes: u32,
}

const fn load(test: &'static str, clients: u32, pipeline: u64, bytes: u32) -> Load {
    Load {
        test,
        clients,
        pipeline,
        bytes,
    }
}

impl Load {
    /// In the order of the report.
    pub(crate) const ALL: [Load; 14] = [
        load("SET", 1, 1, 100),
        load("GET", 1, 1, 100),
        load("SET", 1, 16, 100),
        load("GET", 1, 16, 100),
        load("SET", 50, 1, 100),
        load("GET", 50, 1, 100),
        load("SET", 50, 16, 100),
        load("GET", 50, 16, 100),
        load("SET", 50, 1, 4096),
        load("GET", 50, 1, 4096),
        load("SET", 1000, 1, 100),
        load("GET", 1000, 1, 100),
        load("SET", 1000, 16, 100),
        load("GET", 1000, 16, 100),
    ];

    /// For people.
    pub(crate) fn name(self) -> String {
        let Load {
            test,
            clients,
            pipeline,
            bytes,
        } = self;
        format!("{test} {bytes} B, {clients} clients, pipeline {pipeline}")
    }

    /// Enough for a second or more on any system.
    fn operations(self) -> u64 {
        match self.clients {
            1 => 4_000 * self.pipeline,
            _ => 100_000 * self.pipeline.min(8),
        }
    }
}

/// What came out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// Requests answered.
    pub(crate) operations: u64,
    /// Requests per second.
    pub(crate) per_second: f64,
    /// Median latency, milliseconds.
    pub(crate) p50_ms: f64,
    /// 99th percentile of latency, milliseconds.
    pub(crate) p99_ms: f64,
}

impl Run {
    /// Loads the server behind `port`, over 100,000 keys.
    pub(crate) async fn of(load: Load, port: u16) -> Run {
        let output = Command::new("redis-benchmark")
            .args(["-h", "127.0.0.1", "-p", &port.to_string()])
            .args(["-c", &load.clients.to_string(), "-P", &load.pipeline.to_string()])
            .args(["-d", &load.bytes.to_string(), "-r", "100000", "--csv"])
            .args(["-t", &load.test.to_lowercase()])
            .args(["-n", &load.operations().to_string()])
            .output()
            .await
            .expect("redis-benchmark runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        parse(&text, load).unwrap_or_else(|| panic!("redis-benchmark printed {text:?}"))
    }
}

/// `"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"`.
fn parse(text: &str, load: Load) -> Option<Run> {
    let line = text
        .lines()
        .find(|l| l.starts_with(&format!("\"{}\"", load.test)))?;
    let fields: Vec<f64> = line
        .split(',')
        .skip(1)
        .filter_map(|f| f.trim_matches('"').parse().ok())
        .collect();
    Some(Run {
        operations: load.operations(),
        per_second: *fields.first()?,
        p50_ms: *fields.get(3)?,
        p99_ms: *fields.get(5)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_redis_benchmark_prints() {
        let text = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\"p95_latency_ms\",\
                    \"p99_latency_ms\",\"max_latency_ms\"\n\
                    \"SET\",\"83333.33\",\"0.3\",\"0.1\",\"0.295\",\"0.4\",\"0.511\",\"1.2\"\n";
        let run = parse(text, load("SET", 50, 1, 100)).unwrap();
        assert_eq!((run.per_second, run.p50_ms, run.p99_ms), (83333.33, 0.295, 0.511));
        assert!(parse(text, load("GET", 50, 1, 100)).is_none());
    }
}
