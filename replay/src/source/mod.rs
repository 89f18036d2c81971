//! The journal's side: where it certainly stands, and which of its bytes a link may be sent.

mod confirmed;
mod plan;
#[cfg(test)]
mod plan_tests;

pub(crate) use confirmed::confirmed;
pub(crate) use plan::{LinkPlan, PlanError, Verdict};
