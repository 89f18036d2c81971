//! The wire of Redoubt: `redoubt.v1`, generated from the .proto files beside this crate, and the conversions
//! between its messages and the nouns of `redoubt_types`. Nothing past a server's or client's edge uses
//! a generated type.

/// Messages and services of `redoubt.v1`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "generated"
)]
pub mod v1 {
    tonic::include_proto!("redoubt.v1");
}

mod codec;
mod convert;

pub use codec::{RoomyCodec, RoomyEncoder};
pub use convert::{
    InvalidField, base, base_from, base_name, base_name_from, cluster_id, epoch, holder, lineage_from,
    lineage_step, lineage_step_from, lineage_to, node_id, replid, run_id,
};
