//! What went wrong on a disk and was set right, counted.

use std::ops::Add;

/// Counts of a disk's damage, since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskTally {
    /// Times that a file could not be read as it was written. The same damage may be met again until it is repaired.
    pub rot_met: u64,
    /// Ranges of the log that were fetched from other nodes.
    pub ranges_repaired: u64,
    /// Copies of the vote or the identity that were made again from the other one.
    pub copies_mended: u64,
    /// Times that all files were read again.
    pub passes: u64,
}

impl Add for DiskTally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        DiskTally {
            rot_met: self.rot_met + other.rot_met,
            ranges_repaired: self.ranges_repaired + other.ranges_repaired,
            copies_mended: self.copies_mended + other.copies_mended,
            passes: self.passes + other.passes,
        }
    }
}
