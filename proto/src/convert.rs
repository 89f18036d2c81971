//! Between wire and nouns. A field that can't be read is named in the error, with what it held.

use crate::v1;
use redoubt_types::{
    Base, BaseName, Chain, ClusterId, Db, Epoch, HolderId, Lineage, LineageStep, NodeId, Offset, ReplId,
    RunId, WallTime,
};

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

/// A base's name to the wire.
pub fn base_name(name: &BaseName) -> v1::BaseName {
    v1::BaseName {
        at: name.at.get(),
        checksum: name.checksum,
    }
}

/// A base's name from the wire.
pub fn base_name_from(name: &v1::BaseName) -> BaseName {
    BaseName {
        at: Offset::new(name.at),
        checksum: name.checksum,
    }
}

/// A base's manifest to the wire.
pub fn base(base: &Base) -> v1::Base {
    v1::Base {
        at: base.name.at.get(),
        checksum: base.name.checksum,
        replid: base.replid.to_string(),
        chain: base.chain.get(),
        groups: base.groups,
        db: base.db.get(),
        captured_wall_ms: base.captured.ms(),
        bytes: base.bytes,
        rdb_version: base.rdb_version,
        server: base.server.clone(),
        keys: base.keys,
        digest: base.digest.to_be_bytes().to_vec().into(),
    }
}

/// A base's manifest from the wire.
///
/// # Errors
/// [`InvalidField`] when its replid is malformed, its digest no digest, or its RDB empty.
pub fn base_from(base: &v1::Base) -> Result<Base, InvalidField> {
    let digest: [u8; 16] =
        base.digest.as_ref().try_into().map_err(|_| {
            InvalidField::new("base.digest", format!("has {} bytes, not 16", base.digest.len()))
        })?;
    if base.bytes == 0 {
        return Err(InvalidField::new("base.bytes", "must not be 0"));
    }
    Ok(Base {
        name: BaseName {
            at: Offset::new(base.at),
            checksum: base.checksum,
        },
        replid: replid("base.replid", &base.replid)?,
        chain: Chain::from_u64(base.chain),
        groups: base.groups,
        db: Db::new(base.db),
        captured: WallTime::from_ms(base.captured_wall_ms),
        bytes: base.bytes,
        rdb_version: base.rdb_version,
        server: base.server.clone(),
        keys: base.keys,
        digest: u128::from_be_bytes(digest),
    })
}
