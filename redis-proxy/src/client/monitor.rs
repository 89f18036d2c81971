//! What MONITOR does not show: commands of the proxy's own.
//!
//! Decides by a line's text alone: every command that the proxy sends for itself ends with a word of its own
//! ([`OWN`](crate::upstream::OWN)), which the server does not mind and repeats, or follows one that does, on the same connection.
//! AUTH, of which the server shows no argument, stands right before such a one: so it waits for the next line.
//! Promises that a client's line is shown as the server sent it, but that a WAIT is shown as one; who writes that word
//! into their own commands hides those, and no others. Must not know a connection.

use bytes::BytesMut;
use redoubt_resp::reply::FrameEnd;
use std::collections::VecDeque;

/// How the end of an own command is shown, if it is one of these.
const OWN_END: &[u8] = b" \"redoubt\"";
const OWN_BEGINS: [&[u8]; 2] = [b"\"INFO\" ", b"\"PING\" "];
/// What follows some of those, and can't carry the word.
const FOLLOWERS: [(&[u8], Followers); 5] = [
    // A connection that is proven, and capture's.
    (b"\"INFO\" \"server\" \"redoubt\"", &[b"\"CLIENT\" \"INFO\""]),
    (b"\"INFO\" \"default\" \"redoubt\"", &[b"\"PING\""]),
    // One that is given to clients.
    (b"\"INFO\" \"reset\" \"redoubt\"", &[b"\"RESET\""]),
    // The one that clients share, when it has just been made.
    (b"\"PING\" \"redoubt\"", &[b"\"COMMAND\""]),
    (
        b"\"ECHO\" \"shared redoubt\"",
        &[b"\"CLIENT\" \"SETNAME\" \"redoubt-shared\"", b"\"HELLO\" \"3\""],
    ),
];
/// How AUTH is shown.
const AUTH: &[u8] = b"\"AUTH\" \"(redacted)\" \"(redacted)\"";
/// A line of the proxy's own at most, bytes: time, address, and three words.
const OWN_LINE_BYTES_MAX: usize = 512;
/// Connections at most of which is known that the proxy's own commands may follow: of those that were heard of last.
const RECENT_MAX: usize = 16;

type Followers = &'static [&'static [u8]];

/// What is known of the frame in progress.
#[derive(Debug)]
enum Frame {
    /// It may be a line of the proxy's own: its beginning, not yet passed on.
    Undecided(BytesMut),
    /// It is passed on as it comes.
    Passing,
}

/// Goes over a server's answers and leaves lines out.
#[derive(Debug)]
pub struct Monitor {
    frame: Frame,
    /// Where lines came from that were left out, and what may follow them there; the last heard of last.
    recent: VecDeque<(Vec<u8>, Followers)>,
    /// Whether the proxy's own connections authenticate.
    authenticates: bool,
    /// An AUTH that may be the proxy's, if that was the last line.
    auth: Option<BytesMut>,
}

impl Monitor {
    /// Begins at a frame's first byte, or within a frame. `authenticates` says whether the proxy's own connections do.
    pub fn new(at_boundary: bool, authenticates: bool) -> Self {
        let frame = if at_boundary {
            Frame::Undecided(BytesMut::new())
        } else {
            Frame::Passing
        };
        Monitor {
            frame,
            recent: VecDeque::new(),
            authenticates,
            auth: None,
        }
    }

    /// Appends to `out` what is shown of `bytes`, in which `frames` end.
    pub fn show(&mut self, bytes: &[u8], frames: &[FrameEnd], out: &mut BytesMut) {
        let mut start = 0;
        for frame in frames {
            self.take(&bytes[start..frame.end], out);
            start = frame.end;
            match std::mem::replace(&mut self.frame, Frame::Undecided(BytesMut::new())) {
                Frame::Undecided(line) => self.judge(&line, out),
                Frame::Passing => {}
            }
        }
        self.take(&bytes[start..], out);
        if let Frame::Undecided(line) = &self.frame
            && (line.len() > OWN_LINE_BYTES_MAX || line.first().is_some_and(|b| *b != b'+'))
        {
            out.extend_from_slice(&self.auth.take().unwrap_or_default());
            out.extend_from_slice(line);
            self.frame = Frame::Passing;
        }
    }

    fn take(&mut self, bytes: &[u8], out: &mut BytesMut) {
        match &mut self.frame {
            Frame::Undecided(line) => line.extend_from_slice(bytes),
            Frame::Passing => out.extend_from_slice(bytes),
        }
    }

    fn expect(&mut self, from: &[u8], followers: Followers) {
        if followers.is_empty() {
            return;
        }
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((from.to_vec(), followers));
    }

    /// Shows a whole frame, or leaves it out.
    fn judge(&mut self, frame: &[u8], out: &mut BytesMut) {
        let line = line_of(frame);
        if let Some(auth) = self.auth.take() {
            let is_followed = line.is_some_and(|(from, command)| {
                line_of(&auth).is_some_and(|l| l.0 == from) && is_own(command)
            });
            if !is_followed {
                out.extend_from_slice(&auth);
            }
        }
        let Some((from, command)) = line else {
            return out.extend_from_slice(frame);
        };
        if self.authenticates && command == AUTH {
            self.auth = Some(frame.into());
            return;
        }
        let heard = self.recent.iter().position(|(address, _)| address == from);
        let followers = heard.and_then(|at| self.recent.remove(at)).map(|(_, f)| f);
        let next = followers
            .and_then(<[_]>::split_first)
            .filter(|(next, _)| **next == command);
        if let Some((_, more)) = next {
            self.expect(from, more);
        } else if is_own(command) {
            let found = FOLLOWERS.iter().find(|(first, _)| *first == command);
            self.expect(from, found.map_or(&[], |(_, followers)| followers));
        } else if let Some(at) = find(command, super::wait::SHOWN_BEFORE) {
            // What the client asked for stands behind the script that answers it.
            let begin = frame.len() - 2 - command.len();
            out.extend_from_slice(&frame[..begin]);
            out.extend_from_slice(&command[at..]);
            out.extend_from_slice(b"\r\n");
        } else {
            out.extend_from_slice(frame);
        }
    }
}

/// The index behind the first of `beginnings` with which `text` begins.
fn find(text: &[u8], beginnings: [&str; 2]) -> Option<usize> {
    let found = beginnings.iter().find(|b| text.starts_with(b.as_bytes()));
    found.map(|b| b.len())
}

/// Whether the command ends with the proxy's word, and is one that the proxy sends.
fn is_own(command: &[u8]) -> bool {
    let is_word = command.ends_with(OWN_END) && OWN_BEGINS.iter().any(|begin| command.starts_with(begin));
    // The number of a flight.
    is_word || (command.starts_with(b"\"ECHO\" \"") && command.ends_with(b" redoubt\""))
}

/// Where a line comes from, and its command: `+1700000000.123456 [0 127.0.0.1:5000] "PING"`.
fn line_of(frame: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = frame.strip_prefix(b"+")?.strip_suffix(b"\r\n")?;
    let time = text
        .iter()
        .take_while(|b| b.is_ascii_digit() || **b == b'.')
        .count();
    let rest = text.get(time..)?.strip_prefix(b" [")?;
    let end = rest.windows(3).position(|w| w == b"] \"")?;
    Some((&rest[..end], &rest[end + 2..]))
}

#[cfg(test)]
mod tests;
