//! RESP and PSYNC as pure state machines, shared by redis-proxy, replay, journal and cli.
//!
//! Everything here is bytes in, decisions out: no I/O, no clock, no task, no randomness. Every scanner can be
//! cut at any byte and goes on as if it had not been, takes linear time, and holds bounded memory whatever it
//! is fed; what it is fed comes from strangers. Boundaries are found by the scanners of this crate;
//! redis-protocol decodes single frames whose boundary is known and whose depth is capped.
//!
//! In data-path order: what clients send ([`request`]), what servers answer ([`reply`], [`info`]), what a
//! master sends its replicas ([`stream`]), and how a replica and a master agree to talk ([`psync`]).

#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod info;
mod number;
pub mod psync;
pub mod reply;
pub mod request;
pub mod stream;
