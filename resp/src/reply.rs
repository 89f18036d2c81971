//! What servers answer: where each RESP2 or RESP3 frame ends, and the few that are read or rewritten.
//!
//! Decides the boundaries of *top-level* frames. Promises the same frames for any cutting of the input, linear
//! time, and memory bounded by the depth cap. Types that no stock server sends (streamed strings and
//! aggregates) are errors. Knows nothing of which request a frame answers.

mod rewrite;
mod scan;
mod value;

pub use rewrite::ReplyRewriter;
pub use scan::ReplyScanner;
pub use value::{Value, parse_frame};

use redoubt_types::limits::{REPLY_BULK_BYTES_MAX, REPLY_ELEMENTS_MAX};

/// Why bytes can't be a server's answers. All of them are final: no boundary behind them can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// A frame began with a byte that is no type.
    #[error("an answer can't begin with '{}'", .0.escape_ascii())]
    UnknownType(u8),
    /// A length is missing or no plain decimal; a streamed type has `?` there.
    #[error("an answer has a malformed length")]
    BadLength,
    /// An aggregate has more than [`REPLY_ELEMENTS_MAX`] elements.
    #[error("an answer has {0} elements, more than {REPLY_ELEMENTS_MAX}")]
    TooManyElements(u64),
    /// A bulk string has more than [`REPLY_BULK_BYTES_MAX`] bytes.
    #[error("an answer has a string of {0} bytes, more than {REPLY_BULK_BYTES_MAX}")]
    BulkTooLong(u64),
    /// Aggregates are nested deeper than [`REPLY_DEPTH_MAX`](redoubt_types::limits::REPLY_DEPTH_MAX), or than
    /// [`RESP_DEPTH_MAX`](redoubt_types::limits::RESP_DEPTH_MAX) in what is decoded.
    #[error("an answer is nested too deep")]
    TooDeep,
    /// A line or string does not end with CR LF.
    #[error("an answer does not end where it says")]
    BadTrailer,
    /// The frame's boundary is known, but its content can't be decoded.
    #[error("an answer's content can't be decoded")]
    BadContent,
    /// The scanner was used after an error.
    #[error("the answers were malformed earlier on")]
    Poisoned,
}

/// Where a top-level frame ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameEnd {
    /// Index behind the frame's last byte in the slice (or output) at hand.
    pub end: usize,
    /// The frame's type byte: `+`, `-`, `:`, `$`, `*`, `_`, `,`, `#`, `!`, `=`, `(`, `%`, `~`, or `>` for a push,
    /// which answers no request. Attributes belong to the frame that they precede.
    pub kind: u8,
}

impl FrameEnd {
    /// Whether the frame is RESP3's out-of-band push.
    pub fn is_push(&self) -> bool {
        self.kind == b'>'
    }
}

#[cfg(test)]
mod tests;
