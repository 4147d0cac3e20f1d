use std::os::unix::net::UnixStream;
use std::time::Duration;

use futures::future::join_all;
use redis_protocol::resp2::types::{OwnedFrame, Resp2Frame as _};
use tokio::net::TcpListener;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinHandle;

use super::*;

const MARKER: Bytes = Bytes::from_static(b"*2\r\n$3\r\nGET\r\n$1\r\nm\r\n");

/// What one who takes Redis' place reads, a command at a time.
struct Questions {
    from: OwnedReadHalf,
    input: BytesMut,
}

impl Questions {
    /// The next command's parts; `None` at the end.
    async fn next(&mut self) -> Option<Vec<Bytes>> {
        loop {
            if let Some((BytesFrame::Array(parts), ..)) = decode_bytes_mut(&mut self.input).unwrap() {
                let part = |part| if let BytesFrame::BulkString(part) = part { part } else { panic!("{part:?}") };
                return Some(parts.into_iter().map(part).collect());
            }
            if self.from.read_buf(&mut self.input).await.unwrap() == 0 {
                return None;
            }
        }
    }
}

/// A line to who does as `redis` says.
async fn line<F: Future<Output = ()> + Send + 'static>(
    redis: impl FnOnce(Questions, OwnedWriteHalf) -> F + Send + 'static,
) -> (Line, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let redis = tokio::spawn(async move {
        let (from, to) = listener.accept().await.unwrap().0.into_split();
        redis(Questions { from, input: BytesMut::new() }, to).await;
    });
    (Line::open(&format!("redis://{address}"), &address, &call()).await.unwrap(), redis)
}

fn call() -> Call {
    Call::new("read", 10_000)
}

/// Questions for `count` echoes of a name.
fn echoes(name: &str, count: usize) -> Commands {
    let mut commands = Commands::default();
    for i in 0..count {
        commands.add(&[b"ECHO", format!("{name}.{i}").as_bytes()]);
    }
    commands
}

fn echoed(name: &str, count: usize) -> Vec<BytesFrame> {
    (0..count).map(|i| BytesFrame::BulkString(format!("{name}.{i}").into())).collect()
}

/// Echoes, and answers the question for the marker by how many commands it saw before; in pieces of so many bytes.
async fn echo(mut questions: Questions, mut to: OwnedWriteHalf, piece: usize) {
    let mut seen = 0;
    while let Some(parts) = questions.next().await {
        let answer = if parts[0] == "GET" { seen.to_string().into() } else { parts[1].clone() };
        seen += 1;
        let mut reply = Commands::default();
        reply.part(&answer);
        for piece in reply.bytes.chunks(piece) {
            to.write_all(piece).await.unwrap();
        }
    }
}

#[tokio::test]
async fn every_caller_gets_its_own_replies_and_a_marker_that_was_read_after_them() {
    for piece in [1, 7, 1 << 20] {
        let (line, redis) = line(move |questions, to| echo(questions, to, piece)).await;
        let asking = (0..200_usize).map(|caller| {
            let line = line.clone();
            async move {
                let (name, count) = (caller.to_string(), 1 + caller * 7 % 90);
                let marker = (caller % 5 != 0).then_some(MARKER);
                let replies = line.ask(echoes(&name, count), marker.clone(), &call()).await.unwrap();
                assert_eq!(replies.frames, echoed(&name, count));
                match replies.marker {
                    Some(BytesFrame::BulkString(seen)) => assert!(std::str::from_utf8(&seen).unwrap().parse::<usize>().unwrap() >= count),
                    none => assert!(none.is_none() && marker.is_none(), "{none:?}"),
                }
            }
        });
        join_all(asking).await;
        drop(line);
        // Without handles the connection ends.
        redis.await.unwrap();
    }
}

#[tokio::test]
async fn requests_that_wait_go_out_together_under_one_marker_and_long_ones_under_their_own() {
    let asked = |count| {
        let (answer, _) = oneshot::channel();
        Request { commands: echoes("x", count), marker: Some(MARKER), answer }
    };
    let sizes = |counts: &[usize]| {
        let (mut waiting, mut output) = (counts.iter().map(|count| asked(*count)).collect(), BytesMut::new());
        let flushes = flushes(&mut waiting, &mut output);
        assert!(waiting.is_empty());
        let markers = output.windows(MARKER.len()).filter(|bytes| *bytes == MARKER).count();
        assert_eq!(markers, flushes.len());
        flushes.iter().map(|flush| flush.asked.len()).collect::<Vec<_>>()
    };
    assert_eq!(sizes(&[1; 10]), [10]);
    assert_eq!(sizes(&[1, FLUSH, 1, 1]), [2, 2]);
    assert_eq!(sizes(&[FLUSH; 3]), [1, 1, 1]);
    let (mut waiting, mut output) = (vec![asked(1), asked(1), asked(1)], BytesMut::new());
    waiting[1].marker = None;
    let flushes = flushes(&mut waiting, &mut output);
    assert_eq!(flushes.iter().map(|flush| flush.has_marker).collect::<Vec<_>>(), [true, false, true]);
}

#[tokio::test]
async fn those_who_ask_a_moment_later_go_out_with_the_first() {
    let (line, _redis) = line(|questions, to| echo(questions, to, 1 << 20)).await;
    let asking = [false, true, false, true, true].map(|later| {
        let line = line.clone();
        // One that has bytes, which the runtime has not seen yet.
        let (socket, mut other) = UnixStream::pair().unwrap();
        other.write_all(b"x").unwrap();
        socket.set_nonblocking(true).unwrap();
        let socket = tokio::net::UnixStream::from_std(socket).unwrap();
        tokio::spawn(async move {
            if later {
                socket.readable().await.unwrap();
            }
            line.ask(echoes("x", 1), Some(MARKER), &call()).await.unwrap().marker
        })
    });
    for marker in join_all(asking).await {
        assert_eq!(marker.unwrap(), Some(BytesFrame::BulkString("5".into())), "one marker, behind all of them");
    }
}

#[tokio::test]
async fn replies_of_one_who_gave_up_are_thrown_away() {
    let (line, _redis) = line(|questions, to| async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        echo(questions, to, 1 << 20).await;
    })
    .await;
    let given_up = tokio::time::timeout(Duration::from_millis(10), line.ask(echoes("a", 3), Some(MARKER), &call())).await;
    assert!(given_up.is_err());
    assert_eq!(line.ask(echoes("b", 2), Some(MARKER), &call()).await.unwrap().frames, echoed("b", 2));
}

#[tokio::test]
async fn one_that_does_not_answer_in_time_is_never_used_again() {
    let (line, _redis) = line(|mut questions, to| async move {
        while questions.next().await.is_some() {}
        drop(to);
    })
    .await;
    let error = line.ask(echoes("a", 1), None, &Call::new("read", 30)).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { limit_ms: 30, .. }), "{error}");
    assert!(!line.is_alive());
    let error = line.ask(echoes("b", 1), None, &call()).await.unwrap_err();
    assert!(matches!(error, Error::Storage { .. }), "{error}");
}

#[tokio::test]
async fn whoever_waits_hears_why_a_connection_ended() {
    for (reply, why) in [(&b""[..], "end of file"), (b"!\r\n", "frame"), (b"$1\r\na\r\n$1\r\nb\r\n", "not asked")] {
        let (line, _redis) = line(move |mut questions, mut to| async move {
            questions.next().await;
            // What was asked is whole before the other end hears more.
            to.write_all(reply).await.unwrap();
        })
        .await;
        let first = line.ask(echoes("a", 1), None, &call()).await;
        let error = line.ask(echoes("b", 1), None, &call()).await.unwrap_err();
        assert!(matches!(error, Error::Storage { .. }), "{error}");
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains(why) || first.is_ok() && why == "not asked" && source.contains("end of file"), "{source}");
        assert!(!line.is_alive());
    }
}

#[test]
fn commands_are_what_the_library_writes() {
    let long = vec![b'x'; 12_345];
    for parts in [vec![&b"GET"[..], b"k"], vec![&b""[..]; 11], vec![&long[..], b"\r\n"]] {
        let frame = OwnedFrame::Array(parts.iter().map(|part| OwnedFrame::BulkString(part.to_vec())).collect());
        let mut expected = vec![0; frame.encode_len(false)];
        redis_protocol::resp2::encode::encode(&mut expected, &frame, false).unwrap();
        assert_eq!(Commands::command(&parts).bytes, expected);
    }
}
