//! The RESP endpoint in front of the master: captures its effects, appends them to the journal, and holds
//! every reply until the journal has committed what it depends on.
//!
//! Modules in the order in which a write passes them.

pub mod client;
pub mod upstream;

pub mod capture;

pub mod append;

pub mod hold;

pub mod takeover;

pub mod session;

pub mod config;
