//! One run of `redis-benchmark`.

use tokio::process::Command;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// 50 clients, one request at a time.
    Plain(&'static str),
    /// 50 clients, 16 requests at a time.
    Pipelined(&'static str),
}

impl Load {
    /// In the order of the report.
    pub(crate) const ALL: [Load; 4] = [
        Load::Plain("SET"),
        Load::Plain("GET"),
        Load::Pipelined("SET"),
        Load::Pipelined("GET"),
    ];

    /// For people.
    pub(crate) fn name(self) -> String {
        match self {
            Load::Plain(test) => format!("{test}, 50 clients"),
            Load::Pipelined(test) => format!("{test}, 50 clients, pipeline 16"),
        }
    }

    fn test(self) -> &'static str {
        match self {
            Load::Plain(test) | Load::Pipelined(test) => test,
        }
    }

    fn pipeline(self) -> u64 {
        match self {
            Load::Plain(_) => 1,
            Load::Pipelined(_) => 16,
        }
    }

    /// Enough for some seconds on any system.
    fn operations(self) -> u64 {
        match self {
            Load::Plain(_) => 200_000,
            Load::Pipelined(_) => 1_600_000,
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
    /// Loads the server behind `port`; values of 100 bytes over 100,000 keys.
    pub(crate) async fn of(load: Load, port: u16) -> Run {
        let output = Command::new("redis-benchmark")
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &port.to_string(),
                "-c",
                "50",
                "-d",
                "100",
                "-r",
                "100000",
                "--csv",
            ])
            .args([
                "-t",
                &load.test().to_lowercase(),
                "-P",
                &load.pipeline().to_string(),
            ])
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
        .find(|l| l.starts_with(&format!("\"{}\"", load.test())))?;
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
        let run = parse(text, Load::Plain("SET")).unwrap();
        assert_eq!((run.per_second, run.p50_ms, run.p99_ms), (83333.33, 0.295, 0.511));
        assert!(parse(text, Load::Plain("GET")).is_none());
    }
}
