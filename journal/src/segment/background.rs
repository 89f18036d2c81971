//! What is done behind the log's back, as long as it is open: reading all files again, making spares, merging.

use super::core::{Core, Op};
use super::merge::{Merge, Merging, Stopped};
use super::scrub::{Checked, Scrub};
use super::state::lock;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::sync::mpsc::{RecvTimeoutError, TryRecvError};
use std::time::Duration;

/// What a thread does until it hears that the storage ended.
pub(crate) type Again = fn(&Core, &mpsc::Receiver<()>);

/// The threads, by name.
pub(crate) const ALL: [(&str, Again); 4] = [
    ("storage-scrub", scrub_again_and_again),
    ("storage-space", provide_again_and_again),
    ("storage-merge", merge_again_and_again),
    ("storage-trim", remove_again_and_again),
];

fn scrub(core: &Core) -> Scrub {
    Scrub {
        files: core.files.clone(),
        dir: core.dir.clone(),
        shared: core.shared.clone(),
        known: core.known.clone(),
    }
}

/// Waits; `false` when the storage ended.
fn waits(ended: &mpsc::Receiver<()>, how_long: Duration) -> bool {
    ended.recv_timeout(how_long) == Err(RecvTimeoutError::Timeout)
}

/// Waits for each bytes as long as they may take.
fn pace(ended: &mpsc::Receiver<()>, bytes_per_second: u64) -> impl FnMut(u64) -> bool {
    let per_second = bytes_per_second.max(1) as f64;
    move |bytes| waits(ended, Duration::from_secs_f64(bytes as f64 / per_second))
}

/// As of [`Storage::check`](super::Storage::check); `work` has what is queued worked off.
pub(crate) fn check(core: &Core, pace: &mut dyn FnMut(u64) -> bool, work: impl FnOnce()) -> Checked {
    let mut checked = Checked::default();
    scrub(core).run(&mut checked, &mut |bytes| !core.is_closed() && pace(bytes));
    // By the thread that writes them: else a copy that is being written would look damaged.
    let (answer, answered) = mpsc::channel();
    core.submit(Op::CheckSlots(Box::new(move |mended| drop(answer.send(mended)))));
    work();
    match answered.recv() {
        Ok(mended) => checked.mended = mended,
        Err(_) => checked
            .unchecked
            .push("the vote and the identity: the storage has ended".to_owned()),
    }
    {
        let mut tally = lock(&core.tally);
        tally.copies_mended += checked.mended.len() as u64;
        tally.passes += 1;
    }
    for name in &checked.mended {
        tracing::error!("one of the two copies in {name} was damaged, and was made again from the other");
    }
    for rot in &checked.rot {
        core.found(rot);
    }
    checked
}

/// Pause between two looks at the spares: what a roll may take and find nothing filled.
const PROVIDE_EVERY: Duration = Duration::from_millis(250);
/// Pause between two steps of filling: so that the log's own syncs have the disk most of the time.
const FILL_EVERY: Duration = Duration::from_millis(20);

/// Keeps spares for the log, until `ended` is.
fn provide_again_and_again(core: &Core, ended: &mpsc::Receiver<()>) {
    while ended.try_recv() == Err(TryRecvError::Empty) && !core.is_closed() {
        let pause = match core.held.change(|| core.space.provide()).unwrap_or(Ok(false)) {
            Ok(true) => FILL_EVERY,
            Ok(false) => PROVIDE_EVERY,
            Err(error) => {
                tracing::warn!(%error, "no spare segment can be made");
                PROVIDE_EVERY
            }
        };
        core.space.wait(pause);
    }
}

/// Reads all files again, until `ended` is.
fn scrub_again_and_again(core: &Core, ended: &mpsc::Receiver<()>) {
    while waits(ended, core.options.scrub_every) && !core.is_closed() {
        let mut pace = pace(ended, core.options.scrub_bytes_per_second);
        let checked = check(core, &mut pace, || {});
        for why in &checked.unchecked {
            tracing::warn!("could not be checked: {why}");
        }
        tracing::info!(
            bytes = checked.bytes,
            damaged = checked.rot.len(),
            "read all files again"
        );
    }
}

/// As of [`Storage::merge`](super::Storage::merge).
pub(crate) fn merge(core: &Core, pace: &mut dyn FnMut(u64) -> bool) -> Merging {
    let _one_at_a_time = lock(&core.merging);
    let mut merge = Merge {
        core,
        scrub: scrub(core),
        pace: &mut |bytes| !core.is_closed() && pace(bytes),
    };
    match merge.run() {
        Ok(merging) => merging,
        Err(Stopped::NotNow(why)) => Merging::NotNow(why),
        Err(Stopped::Rot(rot)) => {
            core.found(&rot);
            Merging::NotNow("what is to be merged is damaged".to_owned())
        }
        Err(Stopped::Failure(failure)) => {
            let why = failure.to_string();
            core.fail(failure);
            Merging::NotNow(why)
        }
    }
}

/// How many times longer the pause is after an attempt that came to nothing.
const MERGE_LATER: u32 = 6;

/// Merges small editlogs, until `ended` is.
fn merge_again_and_again(core: &Core, ended: &mpsc::Receiver<()>) {
    let (mut pause, mut told) = (core.options.merge_every, String::new());
    while waits(ended, pause) && !core.is_closed() {
        pause = core.options.merge_every;
        match merge(core, &mut pace(ended, core.options.merge_bytes_per_second)) {
            Merging::Nothing => {}
            Merging::Done { files, bytes } => tracing::info!(files, bytes, "merged editlogs into one"),
            Merging::NotNow(why) => {
                if why != told {
                    tracing::warn!("editlogs are not merged now: {why}");
                    told = why;
                }
                pause = pause.saturating_mul(MERGE_LATER);
            }
        }
    }
}

/// How often it is looked for files of what was trimmed.
const REMOVE_EVERY: Duration = Duration::from_millis(500);
/// Pause between two files: their blocks are given back while the log's own syncs wait.
const NEXT_FILE_AFTER: Duration = Duration::from_millis(20);

/// As of [`Storage::remove_trimmed`](super::Storage::remove_trimmed); `goes_on` is asked before each file.
pub(crate) fn remove_trimmed(core: &Core, goes_on: &mut dyn FnMut(u64) -> bool) -> usize {
    let first = lock(&core.shared).first_segment;
    if first <= core.removed_before.load(Ordering::SeqCst) {
        return 0;
    }
    let _one_at_a_time = lock(&core.merging);
    let mut merge = Merge {
        core,
        scrub: scrub(core),
        pace: goes_on,
    };
    match merge.remove_before(first) {
        Ok(Some(count)) => {
            core.removed_before.store(first, Ordering::SeqCst);
            count
        }
        Ok(None) => 0,
        Err(failure) => {
            core.fail(failure);
            0
        }
    }
}

/// Removes the files of what was trimmed, until `ended` is.
fn remove_again_and_again(core: &Core, ended: &mpsc::Receiver<()>) {
    while waits(ended, REMOVE_EVERY) && !core.is_closed() {
        let files = remove_trimmed(core, &mut |_| !core.is_closed() && waits(ended, NEXT_FILE_AFTER));
        if files > 0 {
            tracing::info!(files, "removed editlogs that a base covers");
        }
    }
}
