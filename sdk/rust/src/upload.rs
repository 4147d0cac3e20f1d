//! Streams of requests that may fail on our side.
//!
//! gRPC has no way to say "what I sent is not whole" but to cancel the call, and an early end looks just like the end. So a request stream that fails
//! never ends: it sends one message that no server accepts and then nothing more, while the caller drops the call and gets the error. The same happens to
//! a stream whose caller has gone away.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use futures::channel::oneshot;
use futures::future::{BoxFuture, Either};
use futures::stream::{BoxStream, StreamExt};
use tonic::Status;

use crate::{Client, Error};

/// The messages of an upload. (A type of its own: the compiler cannot prove a future `Send` that holds the boxed stream itself across a call.)
pub(crate) struct Messages<T>(BoxStream<'static, T>);

impl<T> Stream for Messages<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.as_mut().poll_next(context)
    }
}

/// The messages of `source`, and where its error goes; after an error comes `poison`, and then silence.
pub(crate) fn upload<T: Clone + Send + 'static>(
    source: impl Stream<Item = Result<T, Error>> + Send + 'static,
    poison: T,
) -> (Messages<T>, oneshot::Receiver<Error>) {
    let (failed, failure) = oneshot::channel();
    let state = (source.boxed(), Some(failed), poison);
    let messages = futures::stream::unfold(state, |(mut source, mut failed, poison)| async move {
        match &failed {
            None => return futures::future::pending().await,
            // Nobody waits for the answer: the call was cancelled, and the transport alone would go on sending.
            Some(caller) if caller.is_canceled() => return Some((poison.clone(), (source, None, poison))),
            Some(_) => {}
        }
        match source.next().await? {
            Ok(message) => Some((message, (source, failed, poison))),
            Err(error) => {
                if let Some(failed) = failed.take() {
                    let _ = failed.send(error);
                }
                Some((poison.clone(), (source, failed, poison)))
            }
        }
    });
    (Messages(messages.boxed()), failure)
}

impl Client {
    /// Waits for the answer to an upload, or for its failure on our side, which says more.
    pub(crate) async fn uploaded<T>(
        &self,
        answer: BoxFuture<'static, Result<T, Status>>,
        failure: &mut oneshot::Receiver<Error>,
    ) -> Result<T, Error> {
        match futures::future::select(&mut *failure, answer).await {
            Either::Left((Ok(error), _)) => Err(error),
            // The stream was sent whole and dropped, so it cannot fail any more.
            Either::Left((Err(_), answer)) => answer.await.map_err(|status| self.error(&status)),
            Either::Right((answer, failure)) => match failure.try_recv() {
                Ok(Some(error)) => Err(error),
                _ => answer.map_err(|status| self.error(&status)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_whole_upload_ends() {
        let (messages, failure) = upload(futures::stream::iter([Ok(1), Ok(2)]), 0);
        assert_eq!(messages.collect::<Vec<_>>().await, [1, 2]);
        assert!(failure.await.is_err());
    }

    #[tokio::test]
    async fn an_upload_that_nobody_waits_for_never_ends() {
        let (mut messages, failure) = upload(futures::stream::iter([Ok(1), Ok(2)]), 0);
        assert_eq!(messages.next().await, Some(1));
        drop(failure);
        assert_eq!(messages.next().await, Some(0));
        assert!(messages.next().now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_failed_upload_never_ends_and_says_why() {
        let (mut messages, failure) = upload(futures::stream::iter([Ok(1), Err(Error::Argument("torn".into()))]), 0);
        assert_eq!(messages.next().await, Some(1));
        assert_eq!(messages.next().await, Some(0));
        assert!(messages.next().now_or_never().is_none());
        assert_eq!(failure.await.unwrap().to_string(), "torn");
    }
}
