//! Where the journal certainly stands (H8).
//!
//! Promises a position that a quorum vouched for after it was asked, however long that takes. A node that
//! restarts may know less than what was served before: to a replica that is ahead of such a node, an answer
//! from the node's own view would be a full resync, and a rolling restart a storm of them.

use crate::config::{CONFIRM_DEADLINE, CONFIRM_PAUSE};
use redoubt_client::{Client, ClientError, Description};
use redoubt_env::{Env, planted};

/// Asks until a quorum has confirmed. Waits for ever if none does: the caller decides how long that is of use.
pub(crate) async fn confirmed(env: &Env, client: &Client, endpoints: &[String]) -> Description {
    let mut told = String::new();
    loop {
        match describe(client, endpoints).await {
            Ok(description) => return description,
            Err(e) => {
                // Once per reason, not once per attempt.
                let text = e.to_string();
                if text != told {
                    tracing::warn!("no quorum-confirmed tail yet: {text}");
                    told = text;
                }
            }
        }
        env.sleep(CONFIRM_PAUSE).await;
    }
}

async fn describe(client: &Client, endpoints: &[String]) -> Result<Description, ClientError> {
    if planted::on("h08_unconfirmed_tail") {
        for endpoint in endpoints {
            if let Ok(description) = client.describe_node(endpoint, false).await {
                return Ok(description);
            }
        }
    }
    let description = client.describe(CONFIRM_DEADLINE).await?;
    if !description.confirmed {
        return Err(ClientError::Unavailable(
            "the answer was not confirmed by a quorum".to_owned(),
        ));
    }
    Ok(description)
}
