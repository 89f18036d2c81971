//! One node of the journal, in the order of the data path.

pub mod segment;
