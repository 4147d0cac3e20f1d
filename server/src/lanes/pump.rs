//! Bodies that one runtime makes and another sends.
//!
//! A task of the runtime that makes a body asks it for its frames, a few ahead of what was sent; whoever sends takes them from a channel. When the body that
//! is sent is dropped, as where a caller hangs up, the task ends and the body that it asks is dropped with it. A task that comes to no end, because it
//! panicked or its runtime did not live so long, ends the body with an error: nobody takes what was sent by then for all of it.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use futures::future::poll_fn;
use http_body::{Frame, SizeHint};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Frames that are made before they can be sent.
const AHEAD: usize = 2;

type Made = Result<Frame<Bytes>, axum::Error>;

/// A body that comes from elsewhere.
struct Pumped {
    /// None is the end.
    frames: mpsc::Receiver<Option<Made>>,
    hint: SizeHint,
    ended: bool,
    /// Ends with the body.
    _making: JoinSet<()>,
}

/// A body with the frames of another, which `runtime` makes. One of a known length lies in memory already and stays as it is.
pub(super) fn from(body: Body, runtime: &Handle) -> Body {
    let hint = body.size_hint();
    if hint.exact().is_some() || body.is_end_stream() {
        return body;
    }
    let (sender, frames) = mpsc::channel(AHEAD);
    let mut making = JoinSet::new();
    let make = async move {
        let mut body = pin!(body);
        loop {
            let frame = poll_fn(|context| body.as_mut().poll_frame(context)).await;
            let ended = frame.is_none();
            // Nobody takes it where the receiver is gone.
            if sender.send(frame).await.is_err() || ended {
                return;
            }
        }
    };
    making.spawn_on(make, runtime);
    Body::new(Pumped { frames, hint, ended: false, _making: making })
}

impl HttpBody for Pumped {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Made>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let made = ready!(self.frames.poll_recv(context));
        self.ended = !matches!(made, Some(Some(Ok(_))));
        Poll::Ready(made.unwrap_or_else(|| Some(Err(axum::Error::new("it was given up before its end")))))
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::{StreamExt as _, stream};
    use http::HeaderMap;

    use super::*;

    /// The frames of a body until it ends or fails, as text, and how it failed.
    async fn frames(body: Body) -> (Vec<String>, Option<String>) {
        let (mut body, mut frames) = (pin!(body), Vec::new());
        loop {
            match poll_fn(|context| body.as_mut().poll_frame(context)).await {
                Some(Ok(frame)) => frames.push(match frame.into_data() {
                    Ok(data) => String::from_utf8(data.to_vec()).unwrap(),
                    Err(frame) => format!("{:?}", frame.into_trailers().unwrap()),
                }),
                Some(Err(error)) => return (frames, Some(error.to_string())),
                None => return (frames, None),
            }
        }
    }

    /// Gives two pieces and trailers.
    struct Trailed(usize);

    impl HttpBody for Trailed {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0 += 1;
            Poll::Ready(match self.0 {
                1 | 2 => Some(Ok(Frame::data(Bytes::from(self.0.to_string())))),
                3 => Some(Ok(Frame::trailers(HeaderMap::from_iter([(http::header::ETAG, http::HeaderValue::from_static("x"))])))),
                _ => None,
            })
        }
    }

    #[tokio::test]
    async fn frames_and_trailers_come_as_they_are_and_an_error_ends_them() {
        let runtime = Handle::current();
        let (all, error) = frames(from(Body::new(Trailed(0)), &runtime)).await;
        assert_eq!((all.len(), &all[..2], error), (3, &["1".to_owned(), "2".to_owned()][..], None));
        assert!(all[2].contains("etag"), "{all:?}");
        let many = stream::iter(0..100).map(|n| if n < 50 { Ok(n.to_string()) } else { Err("broken") });
        let (all, error) = frames(from(Body::from_stream(many), &runtime)).await;
        assert_eq!((all.len(), error.as_deref()), (50, Some("broken")));
    }

    #[tokio::test]
    async fn one_that_is_given_up_is_never_taken_for_whole() {
        let panics = stream::iter(0..3).map(|n| if n < 2 { Ok::<_, Infallible>(n.to_string()) } else { panic!("on purpose") });
        let (all, error) = frames(from(Body::from_stream(panics), &Handle::current())).await;
        assert_eq!(all, ["0", "1"]);
        assert!(error.unwrap().contains("given up"));
    }

    #[tokio::test]
    async fn whoever_hangs_up_ends_what_is_made() {
        let (dropped, is_dropped) = tokio::sync::oneshot::channel::<()>();
        let endless = stream::iter(0..).map(move |n: u64| {
            let _dropped = &dropped;
            Ok::<_, Infallible>(n.to_string())
        });
        let mut body = from(Body::from_stream(endless), &Handle::current());
        poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await.unwrap().unwrap();
        drop(body);
        is_dropped.await.unwrap_err();
    }
}
