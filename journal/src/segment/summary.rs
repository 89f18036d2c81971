//! Summaries of sealed segments, as they lie in the metadata: what a scan of the file would find.
//!
//! A summary is believed only if its checksum is right and it names the file's generation and the seal that
//! is found in the file; anything else means that the file is scanned.

use super::format::{FORMAT_VERSION, Position};
use super::index::{LogIds, Place, Places, Run, SegmentLog};
use super::recover::{Cursor, Sealed};

/// What a scan of a sealed segment would find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) generation: u64,
    /// Behind the seal.
    pub(crate) end: Cursor,
    pub(crate) sealed: Sealed,
    pub(crate) log: SegmentLog,
}

/// The key of a segment's summary.
pub(crate) fn key(segment: u32) -> Vec<u8> {
    format!("segment/{segment:010}").into_bytes()
}

impl Summary {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut b = Vec::new();
        let mut u64s = |n: &[u64]| n.iter().for_each(|n| b.extend_from_slice(&n.to_le_bytes()));
        let log = &self.log;
        u64s(&[
            FORMAT_VERSION.into(),
            self.generation,
            self.end.offset.into(),
            self.end.link.into(),
            self.sealed.next_segment,
            self.sealed.next_generation,
            log.removes_from.is_some().into(),
            log.removes_from.unwrap_or(0),
            log.committed_end,
            log.ids.end,
            log.ids.runs.len() as u64,
            log.places.list.len() as u64,
        ]);
        log.ids
            .runs
            .iter()
            .for_each(|r| u64s(&[r.first_index, r.term, r.leader]));
        log.places
            .list
            .iter()
            .for_each(|p| u64s(&[p.first_index, p.at.to_u64()]));
        let crc = crc32fast::hash(&b);
        b.extend_from_slice(&crc.to_le_bytes());
        b
    }

    /// Reads the summary of `segment`, if it is of that generation of it.
    pub(crate) fn decode(b: &[u8], segment: u32, of_generation: u64) -> Option<Self> {
        let (b, crc) = b.split_last_chunk::<4>()?;
        if crc32fast::hash(b) != u32::from_le_bytes(*crc) && !cfg!(fuzzing) {
            return None;
        }
        let mut numbers = b.chunks_exact(8).map(|c| {
            let mut n = [0; 8];
            n.copy_from_slice(c);
            u64::from_le_bytes(n)
        });
        let mut next = || numbers.next();
        if next()? != FORMAT_VERSION.into() {
            return None;
        }
        let generation = next()?;
        let end = Cursor {
            offset: u32::try_from(next()?).ok()?,
            link: u32::try_from(next()?).ok()?,
        };
        let sealed = Sealed {
            next_segment: next()?,
            next_generation: next()?,
        };
        let removes = next()? == 1;
        let removes_from = Some(next()?).filter(|_| removes);
        let committed_end = next()?;
        let ids_end = next()?;
        let (runs, places) = (next()?, next()?);
        let mut ids = LogIds {
            before: None,
            runs: Vec::new(),
            end: ids_end,
        };
        for _ in 0..runs {
            ids.runs.push(Run {
                first_index: next()?,
                term: next()?,
                leader: next()?,
            });
        }
        let mut list = Vec::new();
        for _ in 0..places {
            list.push(Place {
                first_index: next()?,
                at: Position::from_u64(next()?),
            });
        }
        if generation != of_generation || list.iter().any(|p| p.at.segment != segment) {
            return None;
        }
        let log = SegmentLog {
            removes_from,
            ids,
            places: Places::from_list(list),
            committed_end,
        };
        Some(Summary {
            generation,
            end,
            sealed,
            log,
        })
    }
}
