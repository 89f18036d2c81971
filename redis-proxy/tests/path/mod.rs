//! What a client sees, whatever connection to the server it has.

mod client_path;
mod drain;
mod hold_stress;
mod refusals;
mod wait_and_kill;
