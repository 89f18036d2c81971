//! `redoubt status`: nodes, leader, tail, writer, session and replicas.

mod table;
mod view;

use crate::failure::Failure;
use crate::output::{self, Output};
use redoubt_client::Client;
use redoubt_env::Env;
use view::View;

/// Prints how the cluster is, as far as its nodes answer.
///
/// # Errors
/// When no node answers, or no quorum confirms the tail; what is known was printed then.
pub(crate) async fn run(env: &Env, client: &Client, output: Output) -> Result<(), Failure> {
    let view = View::new(&client.status().await, env.wall());
    match output {
        Output::Table => output::line(&table::render(&view)),
        Output::Json => output::line(&serde_json::to_string(&view).unwrap_or_default()),
    }
    if view.nodes.iter().all(|n| n.error.is_some()) {
        return Err(Failure::unavailable(
            "no journal node answers: check --endpoints, and that the nodes run",
        ));
    }
    if !view.confirmed {
        return Err(Failure::unavailable(
            "no quorum confirms the tail: a majority of the journal nodes must run and reach each other",
        ));
    }
    Ok(())
}
