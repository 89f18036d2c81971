//! Records on their way to the file: small ones are copied into one buffer, large payloads go as they are.

use bytes::Bytes;
use redoubt_env::files::File;
use std::io::{self, IoSlice};
use std::ops::Range;

/// Payloads below this are copied: that is cheaper than a slice of its own for the kernel.
const COPY_BELOW_BYTES: usize = 4096;
/// Slices of one write at most (`IOV_MAX`).
const SLICES_MAX: usize = 1024;

enum Piece {
    Copied(Range<usize>),
    Shared(Bytes),
}

/// Bytes that lie one behind the other.
#[derive(Default)]
pub(crate) struct Batch {
    copied: Vec<u8>,
    pieces: Vec<Piece>,
    bytes: u64,
}

impl Batch {
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds a header, its payload and zeros up to `span` bytes in all.
    pub(crate) fn push(&mut self, header: &[u8], payload: &Bytes, span: u64) {
        self.copy(header);
        if payload.len() < COPY_BELOW_BYTES {
            self.copy(payload);
        } else {
            self.pieces.push(Piece::Shared(payload.clone()));
        }
        let padding = span as usize - header.len() - payload.len();
        self.copy(&[0; 8][..padding]);
        self.bytes += span;
    }

    fn copy(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let from = self.copied.len();
        self.copied.extend_from_slice(bytes);
        match self.pieces.last_mut() {
            Some(Piece::Copied(range)) => range.end = self.copied.len(),
            _ => self.pieces.push(Piece::Copied(from..self.copied.len())),
        }
    }

    /// Writes everything at `at` and is empty then.
    pub(crate) fn write_to(&mut self, file: &dyn File, mut at: u64) -> io::Result<()> {
        for pieces in self.pieces.chunks(SLICES_MAX) {
            let slices: Vec<_> = pieces
                .iter()
                .map(|p| match p {
                    Piece::Copied(range) => IoSlice::new(&self.copied[range.clone()]),
                    Piece::Shared(bytes) => IoSlice::new(bytes),
                })
                .collect();
            file.write_at(&slices, at)?;
            at += slices.iter().map(|s| s.len() as u64).sum::<u64>();
        }
        self.copied.clear();
        self.pieces.clear();
        self.bytes = 0;
        Ok(())
    }
}
