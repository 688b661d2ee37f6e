//! Waiting for what the demo's nodes should do by themselves, within a limit.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::client::{Client, Status};
use crate::demo::load::Control;
use crate::failure::Failure;

/// The longest wait for anything that the cluster should do by itself.
pub(crate) const WAIT_LIMIT: Duration = Duration::from_secs(30);
/// The pause between two looks.
pub(crate) const POLL: Duration = Duration::from_millis(5);

pub(crate) fn waited_for(what: &str) -> Failure {
    Failure::other(format!("waited {} s in vain for {what}", WAIT_LIMIT.as_secs()))
}

/// Waits until so many writes of a stage are acknowledged.
pub(crate) async fn reached(control: &Control, acknowledged: u32) -> Result<(), Failure> {
    let deadline = Instant::now() + WAIT_LIMIT;
    while control.acknowledged.load(Ordering::Relaxed) < acknowledged {
        if Instant::now() > deadline {
            return Err(waited_for("enough acknowledged writes"));
        }
        sleep(POLL).await;
    }
    Ok(())
}

/// The node that says that it leads, in a term above this one.
pub(crate) async fn leading(client: &Client, above_term: u64) -> Option<Status> {
    let mut leader: Option<Status> = None;
    for at in 0..client.len() {
        // One that was deposed and has not heard of it may say so too: the highest term is right.
        if let Some(status) = client.status(at).await.filter(|status| status.role == "leader")
            && status.term > leader.as_ref().map_or(above_term, |leader| leader.term)
        {
            leader = Some(status);
        }
    }
    leader
}

/// Waits for a leader in a term above this one.
pub(crate) async fn elected(client: &Client, above_term: u64) -> Result<Status, Failure> {
    let deadline = Instant::now() + WAIT_LIMIT;
    while Instant::now() < deadline {
        if let Some(leader) = leading(client, above_term).await {
            return Ok(leader);
        }
        sleep(POLL).await;
    }
    Err(waited_for("a new leader"))
}
