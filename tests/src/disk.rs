//! What lies on a node's disk, and how it comes to harm.

use crate::DevCluster;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Where `text` lies on the disk of `node`, of a cluster that has written it in an editlog: the file and the place of its
/// first byte.
///
/// # Panics
/// When it lies nowhere.
pub fn place_of(cluster: &DevCluster, node: &str, text: &[u8]) -> (PathBuf, u64) {
    let mut dirs = vec![cluster.dir.join(node).join("data")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).expect("a file");
            if let Some(at) = bytes.windows(text.len()).position(|w| w == text) {
                return (path, at as u64);
            }
        }
    }
    panic!("{:?} is not on the disk of {node}", String::from_utf8_lossy(text));
}

/// Changes one bit on the disk, or changes it back.
///
/// # Panics
/// When there is no such byte.
pub fn flip(path: &Path, at: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path);
    let file = file.expect("a file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a byte");
    file.write_all_at(&[byte[0] ^ 0x20], at).expect("a byte");
}
