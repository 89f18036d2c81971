//! What a client sees, whatever connection to the server it has.

mod client_path;
mod drain;
mod ends;
mod hold_stress;
mod limits;
mod monitor;
mod pause;
mod refusals;
mod wait_and_kill;
