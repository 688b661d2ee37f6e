//! The body of an answer as connections send it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use crate::http::activity::{Activity, Working};

/// What is sent, as it is or part by part. Kept until it was sent, or its connection has ended.
pub(crate) enum Content {
    Whole(Bytes),
    /// An error among the parts, or an end before the last one, is seen by the client as a body that was cut.
    Parts {
        from: mpsc::Receiver<io::Result<Bytes>>,
        activity: Arc<Activity>,
        _working: Working,
    },
}

impl Content {
    /// The next part; none after the last.
    pub(crate) fn poll_part(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        match self {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(std::mem::take(bytes)))),
            Self::Parts { from, activity, .. } => {
                let part = ready!(from.poll_recv(context));
                Poll::Ready(part.map(|part| part.map(|part| activity.hold(part, ()))))
            }
        }
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.get_mut().poll_part(context).map(|part| part.map(|part| part.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Parts { .. } => SizeHint::default(),
        }
    }
}
