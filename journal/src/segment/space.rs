//! Room on the disk (H4): what the log has in hand, so that a full disk stops data long before it stops the log.
//!
//! The segments to come are made beforehand, as *spares*: files of zeros whose blocks are allotted, so that writing to them
//! takes nothing more from the disk (on a file system that writes over what is there; one that never does, such as btrfs or
//! ZFS, can still run out of space in them, and that is a failed write like any other). A spare becomes a segment by its
//! header. When no more spares can be made, or not as fast as they are used, the room is low: whoever admits data has to stop
//! then, and what is in hand is left for elections, leases and whatever else keeps the log alive. When that too comes to its
//! end, the room is none.
//!
//! A file that the log no longer needs is made zeros again and becomes a spare too: so a log that is rid of as much as it writes
//! takes nothing from the disk and gives nothing back.

use super::file;
use super::model::Options;
use super::state::lock;
use redoubt_env::files::{Files, Mode};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use tokio::sync::watch;

const PREFIX: &str = "spare-";
const USED_PREFIX: &str = "used-";
/// What is filled with zeros at once.
const FILL_BYTES: u64 = 1024 * 1024;
/// Spares at most, whatever the sizes of segments and reserve say.
const SPARES_MAX: u64 = 64;

/// How much room a log has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Room {
    /// As much as is ever kept in hand.
    #[default]
    Plenty,
    /// The disk gives no more: data MUST NOT be admitted, so that control entries have what is left.
    Low,
    /// Not even a batch of control entries is sure to fit: nothing MUST be appended.
    None,
}

/// A file that can become a segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Spare {
    pub(crate) path: PathBuf,
    /// So many bytes of it are zeros; the rest is allotted only.
    pub(crate) filled: u64,
}

#[derive(Default)]
struct State {
    /// By number, each with its length.
    spares: BTreeMap<u32, u64>,
    /// A file that was a segment, and how many bytes of it are zeros by now.
    used: Option<(u32, u64)>,
    /// Of the next spare. None is used twice: what the writer has taken may still have its old name.
    next: u32,
    /// The last attempt to make one failed.
    refused: bool,
    /// What is left of the segment that is written to, bytes.
    active_left: u64,
}

impl State {
    /// A number that no spare had.
    const fn number(&mut self) -> u32 {
        self.next += 1;
        self.next - 1
    }
}

/// The spares of a log, and what room they make.
pub(crate) struct Space {
    files: Arc<dyn Files>,
    dir: PathBuf,
    segment_bytes: u64,
    reserve_bytes: u64,
    /// Held while a spare is filled, and while one is taken: one that becomes a segment must not get one more zero. Taken before
    /// `state`, which is never held during I/O: the writer looks at it with every batch.
    filling: Mutex<()>,
    state: Mutex<State>,
    taken: Condvar,
    room: watch::Sender<Room>,
}

fn number_of(prefix: &str, name: &str) -> Option<u32> {
    name.strip_prefix(prefix)?.parse().ok()
}

impl Space {
    /// Takes over the spares that lie in `dir`.
    pub(crate) fn open(files: &Arc<dyn Files>, dir: &Path, options: &Options) -> io::Result<Space> {
        let space = Space {
            files: files.clone(),
            dir: dir.to_owned(),
            segment_bytes: options.segment_bytes.into(),
            reserve_bytes: options.reserve_bytes,
            filling: Mutex::default(),
            state: Mutex::default(),
            taken: Condvar::new(),
            room: watch::Sender::default(),
        };
        let mut found = BTreeMap::new();
        let names = files.list(dir)?;
        for number in names.iter().filter_map(|n| number_of(PREFIX, n)) {
            let file = files.open(&space.path(number), Mode::Write)?;
            // Its blocks may be gone with a restored copy, or the segments' size may be another one now.
            let whole = file.allocate(space.segment_bytes).and_then(|()| file.len());
            match whole {
                Ok(filled) if filled <= space.segment_bytes => drop(found.insert(number, filled)),
                _ => files.remove(&space.path(number))?,
            }
        }
        let mut used: Vec<u32> = names.iter().filter_map(|n| number_of(USED_PREFIX, n)).collect();
        let highest = found.keys().chain(&used).max().copied();
        // How far it was made zeros is not known any more.
        let one = used.pop().map(|number| (number, 0));
        for number in used {
            files.remove(&space.used_path(number))?;
        }
        {
            let mut state = lock(&space.state);
            state.next = highest.map_or(1, |number| number.saturating_add(1));
            state.spares = found;
            state.used = one;
        }
        Ok(space)
    }

    fn used_path(&self, number: u32) -> PathBuf {
        self.dir.join(format!("{USED_PREFIX}{number:010}"))
    }

    /// Where a segment's file may be put that the log no longer needs, if that is of use; with the number for
    /// [`Space::reuse`].
    pub(crate) fn place_for_used(&self) -> Option<(u32, PathBuf)> {
        let mut state = lock(&self.state);
        if state.used.is_some() {
            return None;
        }
        let number = state.number();
        Some((number, self.used_path(number)))
    }

    /// A file was put there. It MUST have that name durably, and no reader: what it holds is overwritten from now on, and under
    /// its old name it would be taken for a segment.
    pub(crate) fn reuse(&self, number: u32) {
        lock(&self.state).used = Some((number, 0));
        self.taken.notify_all();
    }

    fn path(&self, number: u32) -> PathBuf {
        self.dir.join(format!("{PREFIX}{number:010}"))
    }

    /// Spares that are kept: the next segment, and the reserve.
    fn wanted(&self) -> usize {
        let reserve = self.reserve_bytes.div_ceil(self.segment_bytes.max(1));
        (1 + reserve).min(SPARES_MAX) as usize
    }

    /// Takes a spare, the fullest of zeros; the caller makes it a segment, or removes it.
    pub(crate) fn take(&self) -> Option<Spare> {
        let _not_filled = lock(&self.filling);
        let mut state = lock(&self.state);
        let number = *state.spares.iter().max_by_key(|(_, filled)| **filled)?.0;
        let filled = state.spares.remove(&number)?;
        self.tell(&state);
        self.taken.notify_all();
        Some(Spare {
            path: self.path(number),
            filled,
        })
    }

    /// `left` bytes of the segment that is written to are still free, and allotted.
    pub(crate) fn active_has(&self, left: u64) {
        let mut state = lock(&self.state);
        state.active_left = left;
        self.tell(&state);
    }

    fn tell(&self, state: &State) {
        let in_hand = state.active_left + state.spares.len() as u64 * self.segment_bytes;
        // One may be missing for the moment that it takes to make another.
        let complete = state.spares.len() + 1 >= self.wanted();
        let room = if complete && !state.refused {
            Room::Plenty
        } else if in_hand >= self.reserve_bytes / 2 {
            Room::Low
        } else {
            Room::None
        };
        let changed = self.room.send_if_modified(|r| std::mem::replace(r, room) != room);
        if changed {
            match room {
                Room::Plenty => tracing::info!("there is room on the disk again"),
                _ if state.refused => {
                    tracing::error!(in_hand, ?room, "the disk is full: no data is admitted")
                }
                _ => tracing::debug!(in_hand, ?room, "spares are used faster than they are made"),
            }
        }
    }

    /// How much room there is.
    pub(crate) fn room(&self) -> watch::Receiver<Room> {
        self.room.subscribe()
    }

    /// Makes one spare, if one is missing, or fills one further. Returns whether there is more to do at once.
    ///
    /// # Errors
    /// What the operating system says but that there is no space, which is what [`Space::room`] is for.
    pub(crate) fn provide(&self) -> io::Result<bool> {
        let (used, is_missing) = {
            let state = lock(&self.state);
            (state.used, state.spares.len() < self.wanted())
        };
        let is_done = match used {
            Some((number, zeros)) if is_missing && zeros >= self.segment_bytes => self.promote(number)?,
            _ if is_missing => self.make()?,
            _ => self.fill()?,
        };
        match used {
            // A disk that gives no more may still have one that only has to be made zeros.
            Some((number, zeros)) if !is_done && zeros < self.segment_bytes => self.erase(number, zeros),
            _ => Ok(is_done),
        }
    }

    /// Makes the file that was a segment zeros from `zeros` on, a part at a time. Returns whether there is more to do at once.
    fn erase(&self, number: u32, zeros: u64) -> io::Result<bool> {
        let path = self.used_path(number);
        let end = (zeros + FILL_BYTES).min(self.segment_bytes);
        let erase = || {
            let file = self.files.open(&path, Mode::Write)?;
            if file.len()? > self.segment_bytes {
                // One record was too large for a segment of the usual size.
                file.set_len(self.segment_bytes)?;
            }
            file.allocate(self.segment_bytes)?;
            file::write_zeros(&*file, zeros, end)?;
            file.sync_data()
        };
        match erase() {
            Ok(()) => {
                lock(&self.state).used = Some((number, end));
                Ok(true)
            }
            Err(e) => {
                lock(&self.state).used = None;
                self.files.remove(&path)?;
                Err(e)
            }
        }
    }

    /// Makes the file that was a segment, and is zeros, a spare.
    fn promote(&self, number: u32) -> io::Result<bool> {
        let renamed = self.files.rename(&self.used_path(number), &self.path(number));
        let named = renamed.and_then(|()| self.files.sync_dir(&self.dir));
        let mut state = lock(&self.state);
        state.used = None;
        named?;
        state.spares.insert(number, self.segment_bytes);
        self.tell(&state);
        Ok(true)
    }

    /// Makes all spares that are missing, as far as the disk has room.
    ///
    /// # Errors
    /// As of [`Space::provide`].
    pub(crate) fn complete(&self) -> io::Result<()> {
        while lock(&self.state).spares.len() < self.wanted() && self.provide()? {}
        Ok(())
    }

    /// Waits until a spare is missing that the disk may have room for, for `most` at most.
    pub(crate) fn wait(&self, most: Duration) {
        let state = lock(&self.state);
        if state.spares.len() < self.wanted() && !state.refused {
            return;
        }
        // Whatever woke it, it looks.
        drop(self.taken.wait_timeout(state, most));
    }

    fn make(&self) -> io::Result<bool> {
        let number = lock(&self.state).number();
        let path = self.path(number);
        let made = match self.files.open(&path, Mode::CreateNew) {
            Ok(file) => file
                .allocate(self.segment_bytes)
                .and_then(|()| file.sync_data())
                .and_then(|()| self.files.sync_dir(&self.dir)),
            // Left by an earlier opening's last moment.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(true),
            Err(e) => Err(e),
        };
        let mut state = lock(&self.state);
        match made {
            Ok(()) => {
                state.spares.insert(number, 0);
                state.refused = false;
                self.tell(&state);
                Ok(true)
            }
            Err(e) => {
                // Whatever it was that the disk refused, it can't be relied on for more.
                state.refused = true;
                self.tell(&state);
                // What is half made may hold the last blocks there are.
                match self.files.remove(&path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
                match e.kind() {
                    io::ErrorKind::StorageFull => Ok(false),
                    _ => Err(e),
                }
            }
        }
    }

    /// Fills the spare that comes next a little further, once the segment that is written to is half full.
    fn fill(&self) -> io::Result<bool> {
        let filling = lock(&self.filling);
        let (number, filled) = {
            let state = lock(&self.state);
            let next = state.spares.iter().max_by_key(|(_, filled)| **filled);
            let Some((&number, &filled)) = next.filter(|_| state.active_left <= self.segment_bytes / 2)
            else {
                return Ok(false);
            };
            (number, filled)
        };
        if filled >= self.segment_bytes {
            return Ok(false);
        }
        let file = self.files.open(&self.path(number), Mode::Write)?;
        let end = (filled + FILL_BYTES).min(self.segment_bytes);
        file::write_zeros(&*file, filled, end)?;
        lock(&self.state).spares.insert(number, end);
        drop(filling);
        file.sync_data()?;
        Ok(end < self.segment_bytes)
    }
}
