//! Whether the ports are free, and who has one that is not.

use super::layout::Part;
use super::proc;
use crate::failure::Failure;
use crate::plain_files;
use redoubt_env::Env;
use redoubt_env::files::Files;
use std::io;
use std::path::Path;

/// State of a listening socket in /proc/net/tcp.
const LISTEN: &str = "0A";

/// Checks that every component's port can be listened on.
///
/// # Errors
/// When one can't; the sentence names it, and the process that has it if that can be found out.
pub(crate) async fn check_free(env: &Env, parts: &[Part]) -> Result<(), Failure> {
    for part in parts {
        // The listener is closed again at once; nobody connects to a port that nothing was said about.
        match env.net().listen(&part.address()).await {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                let holder = holder(env.files().as_ref(), part.port);
                let holder = holder.unwrap_or_else(|| "a process that can't be seen from here".to_owned());
                return Err(Failure::failed(format!(
                    "port {} of {} is taken by {holder}: end it, or choose other ports with --port-base (and another \
                     --dir)",
                    part.port, part.name
                )));
            }
            Err(e) => {
                return Err(Failure::io(
                    format_args!("listen on {} for {}", part.address(), part.name),
                    &e,
                ));
            }
        }
    }
    Ok(())
}

/// A warning when a port lies where the system takes the ports of outgoing connections from: while a component is
/// down, some connection may get its port.
pub(crate) fn warning(files: &dyn Files, parts: &[Part]) -> Option<String> {
    let range = plain_files::read(files, Path::new("/proc/sys/net/ipv4/ip_local_port_range")).ok()?;
    let range = String::from_utf8_lossy(&range);
    let mut ends = range.split_ascii_whitespace().map(str::parse::<u16>);
    let (first, last) = (ends.next()?.ok()?, ends.next()?.ok()?);
    let part = parts.iter().find(|p| (first..=last).contains(&p.port))?;
    Some(format!(
        "port {} of {} lies in the range that outgoing connections get their ports from ({first} to {last}): a \
         component that is started again may find its port taken; a --port-base below {} is safer",
        part.port,
        part.name,
        first.saturating_sub(301)
    ))
}

/// The process that listens on `port`, as `process PID (COMMAND LINE)`.
fn holder(files: &dyn Files, port: u16) -> Option<String> {
    let socket = ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| {
        let content = plain_files::read(files, Path::new(table)).ok()?;
        listening_inode(&String::from_utf8_lossy(&content), port)
    })?;
    let link = format!("socket:[{socket}]");
    let pid = proc::pids(files).into_iter().find(|pid| has_open(*pid, &link))?;
    let command: String = proc::arguments(files, pid).join(" ").chars().take(120).collect();
    Some(format!("process {pid} ({command})"))
}

fn has_open(pid: u32, link: &str) -> bool {
    let Ok(dir) = rustix::fs::open(
        format!("/proc/{pid}/fd"),
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    ) else {
        return false;
    };
    let Ok(entries) = rustix::fs::Dir::read_from(&dir) else {
        return false;
    };
    entries.flatten().any(|entry| {
        let target = rustix::fs::readlinkat(&dir, entry.file_name(), Vec::new());
        target.is_ok_and(|t| t.as_bytes() == link.as_bytes())
    })
}

/// The inode of the socket that listens on `port`, from the text of /proc/net/tcp: the 2nd field is the local
/// address as hexadecimal `IP:PORT`, the 4th the state, the 10th the inode.
fn listening_inode(table: &str, port: u16) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
        let here = u16::from_str_radix(local_port, 16).ok()? == port && *fields.get(3)? == LISTEN;
        if here { fields.get(9)?.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::super::layout::Kind;
    use super::*;

    #[test]
    fn a_listening_socket_is_found_by_its_port() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1B58 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 11 1 0\n\
            1: 0100007F:1B58 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 22 1 0\n";
        assert_eq!(listening_inode(table, 7000), Some(22));
        assert_eq!(listening_inode(table, 7001), None);
    }

    #[tokio::test]
    async fn a_taken_port_is_refused_by_the_name_of_its_holder() {
        let env = Env::real();
        let listener = env.net().listen("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().rsplit_once(':').unwrap().1.parse().unwrap();
        let part = Part {
            name: "proxy-1".into(),
            kind: Kind::Proxy,
            port,
        };
        let refusal = check_free(&env, std::slice::from_ref(&part))
            .await
            .unwrap_err()
            .to_string();
        assert!(refusal.contains(&format!("port {port} of proxy-1")), "{refusal}");
        assert!(
            refusal.contains(&format!("process {} (", std::process::id())),
            "{refusal}"
        );
        drop(listener);
        check_free(&env, &[part]).await.unwrap();
    }
}
