//! What the programs rely on: calls can be made from any task, and the streams can be moved into one.

use redoubt_client::{Appender, Client, Tailer};
use redoubt_types::{Epoch, HolderId, Offset};
use std::time::Duration;

fn sendable<T: Send>(value: T) -> T {
    value
}

#[test]
fn every_call_is_a_future_that_any_task_may_run() {
    fn calls(client: &'static Client, appender: &'static mut Appender, tailer: &'static mut Tailer) {
        let d = Duration::ZERO;
        let (holder, epoch) = (HolderId::new(1).unwrap(), Epoch::FIRST);
        drop(sendable(client.describe(d)));
        drop(sendable(client.acquire(holder, "", d, d)));
        drop(sendable(client.renew(epoch, holder, d)));
        drop(sendable(client.release(epoch, holder, d)));
        drop(sendable(client.bootstrap(d)));
        drop(sendable(client.status()));
        drop(sendable(client.report_replicas("", &[])));
        drop(sendable(appender.next()));
        drop(sendable(tailer.next()));
        drop(sendable(client.tail(Offset::ZERO, true)));
    }
    let _: fn(&'static Client, &'static mut Appender, &'static mut Tailer) = calls;
}
