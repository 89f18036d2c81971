//! Between wire and nouns. A field that can't be read is named in the error, with what it held.

use crate::v1;
use redoubt_types::{ClusterId, Epoch, HolderId, Lineage, LineageStep, NodeId, Offset, ReplId, RunId};

/// A field of a message that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("field `{field}`: {why}")]
pub struct InvalidField {
    field: &'static str,
    why: String,
}

impl InvalidField {
    /// The field `field` is unusable because of `why`.
    pub fn new(field: &'static str, why: impl Into<String>) -> Self {
        InvalidField {
            field,
            why: why.into(),
        }
    }
}

macro_rules! parsed {
    ($(#[$doc:meta])* $name:ident -> $t:ty) => {
        $(#[$doc])*
        ///
        /// # Errors
        /// [`InvalidField`] with the text that was found.
        pub fn $name(field: &'static str, s: &str) -> Result<$t, InvalidField> {
            s.parse().map_err(|e: redoubt_types::ParseIdError| InvalidField::new(field, e.to_string()))
        }
    };
}
parsed!(
    /// A replid from its 40 digits.
    replid -> ReplId
);
parsed!(
    /// A run id from its 40 digits.
    run_id -> RunId
);
parsed!(
    /// A cluster id from its 32 digits.
    cluster_id -> ClusterId
);

macro_rules! nonzero {
    ($(#[$doc:meta])* $name:ident -> $t:ty) => {
        $(#[$doc])*
        ///
        /// # Errors
        /// [`InvalidField`] when it is 0.
        pub fn $name(field: &'static str, n: u64) -> Result<$t, InvalidField> {
            <$t>::new(n).ok_or_else(|| InvalidField::new(field, "must not be 0"))
        }
    };
}
nonzero!(
    /// An epoch.
    epoch -> Epoch
);
nonzero!(
    /// A writer process.
    holder -> HolderId
);
nonzero!(
    /// A journal node's incarnation.
    node_id -> NodeId
);

/// A lineage step to the wire.
pub fn lineage_step(step: &LineageStep) -> v1::LineageStep {
    v1::LineageStep {
        replid: step.replid.to_string(),
        from: step.from.get(),
        epoch: step.epoch.map_or(0, Epoch::get),
    }
}

/// A lineage step from the wire.
///
/// # Errors
/// [`InvalidField`] when its replid is malformed.
pub fn lineage_step_from(step: &v1::LineageStep) -> Result<LineageStep, InvalidField> {
    Ok(LineageStep {
        replid: replid("lineage.replid", &step.replid)?,
        from: Offset::new(step.from),
        epoch: Epoch::new(step.epoch),
    })
}

/// A lineage to the wire, oldest step first.
pub fn lineage_to(lineage: &Lineage) -> Vec<v1::LineageStep> {
    lineage.steps().map(lineage_step).collect()
}

/// A lineage from the wire.
///
/// # Errors
/// [`InvalidField`] when it is empty, goes backwards, or holds a malformed replid.
pub fn lineage_from(steps: &[v1::LineageStep]) -> Result<Lineage, InvalidField> {
    let steps = steps
        .iter()
        .map(lineage_step_from)
        .collect::<Result<Vec<_>, _>>()?;
    Lineage::from_steps(&steps).ok_or_else(|| InvalidField::new("lineage", "is empty or goes backwards"))
}
