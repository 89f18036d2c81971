//! Several listeners as one.

use super::{BoxFuture, Conn, Listener};
use std::future::poll_fn;
use std::io;
use std::task::Poll;

/// Accepts what any of them does, in turn.
pub struct Listeners {
    all: Vec<Box<dyn Listener>>,
    /// Who is asked first the next time, so that a busy one does not keep the others waiting.
    first: usize,
}

impl Listeners {
    /// All of these; at least one.
    pub fn new(all: Vec<Box<dyn Listener>>) -> Self {
        Listeners { all, first: 0 }
    }
}

impl Listener for Listeners {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Conn>, String)>> {
        let (first, count) = (self.first, self.all.len().max(1));
        self.first = (first + 1) % count;
        Box::pin(async move {
            let mut accepting: Vec<_> = self.all.iter_mut().map(|l| l.accept()).collect();
            let first = first.min(accepting.len());
            accepting.rotate_left(first);
            poll_fn(|cx| {
                let ready = accepting.iter_mut().find_map(|a| match a.as_mut().poll(cx) {
                    Poll::Ready(accepted) => Some(accepted),
                    Poll::Pending => None,
                });
                ready.map_or(Poll::Pending, Poll::Ready)
            })
            .await
        })
    }

    fn local_addr(&self) -> String {
        self.all.first().map(|l| l.local_addr()).unwrap_or_default()
    }
}
