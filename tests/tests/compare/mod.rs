//! The same random program on a plain server and through the proxy.
//!
//! In the order of its path: what commands there are (`grammar`), what a program says (`values`, `special`,
//! `generate`), how it is run (`drive`), and how the answers are compared (`frame`, `align`, `rules`, `table`).

mod align;
pub(crate) mod drive;
mod frame;
pub(crate) mod generate;
pub(crate) mod grammar;
pub(crate) mod rules;
mod special;
pub(crate) mod table;
pub(crate) mod values;
