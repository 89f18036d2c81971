//! What the log no longer needs in the operating system's cache.
//!
//! The newest records are in the log's own memory, and a journal is read again only by who is far behind. Left alone, the
//! operating system would keep all that was written until its memory is full, and evict for it what others on the machine
//! use, Redis first of all; and the log itself would always write to pages that nobody has touched, which costs several
//! times what writing to used ones does.

use redoubt_env::files::File;
use std::collections::VecDeque;
use std::sync::Arc;

/// Bytes behind the log's end that the operating system may keep.
const KEPT_BYTES: u64 = 32 * 1024 * 1024;
/// Bytes that are given up at once.
const PART_BYTES: u64 = 1024 * 1024;

struct Part {
    segment: u32,
    file: Arc<dyn File>,
    from: u64,
    to: u64,
}

/// The synced bytes that may still be cached, oldest first.
#[derive(Default)]
pub(crate) struct Behind {
    parts: VecDeque<Part>,
    bytes: u64,
}

impl Behind {
    /// `from` to `to` of `file` are synced.
    pub(crate) fn synced(&mut self, segment: u32, file: &Arc<dyn File>, from: u64, to: u64) {
        self.bytes += to - from;
        match self.parts.back_mut() {
            Some(last) if last.segment == segment && last.to == from && last.to - last.from < PART_BYTES => {
                last.to = to;
            }
            _ => self.parts.push_back(Part {
                segment,
                file: file.clone(),
                from,
                to,
            }),
        }
        while self.bytes > KEPT_BYTES
            && let Some(part) = self.parts.pop_front()
        {
            self.bytes -= part.to - part.from;
            part.file.forget(part.from, part.to - part.from);
        }
    }
}
