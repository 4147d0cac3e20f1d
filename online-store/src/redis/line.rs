//! A connection for lookups: requests of many callers at once, each flush of them under one marker.
//!
//! ```text
//! callers --requests--> queue --all that wait--> HMGET, HMGET, … GET marker --one write--> Redis
//!    ^                                                                                       |
//!    +------ rows as slices of what was read, and the marker that was read after them -------+
//! ```
//!
//! One task drives the connection. Whatever waits when it may write goes out together, with what comes while it looks once more, and the marker behind it
//! answers for all of it: it is read after every row of the flush. The task looks at no reply but its frame; what Redis refused, the caller sees.
//!
//! **The end.** A connection that fails, answers what was not asked or does not answer in time is dead: callers that wait hear of it, and it is never used
//! again, because an answer that comes late must not be taken for another's. Without handles it ends by itself. A caller that is cancelled leaves its
//! replies to be read and thrown away.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write as _};
use std::sync::{Arc, OnceLock};

use ::redis::IntoConnectionInfo as _;
use bytes::{Bytes, BytesMut};
use redis_protocol::resp2::decode::decode_bytes_mut;
use redis_protocol::resp2::types::BytesFrame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;

use crate::call::Call;
use crate::{Error, Result};

/// Requests that may wait to be written.
const QUEUE: usize = 1_024;
/// Commands of a flush, about: the first of its callers waits for the last one's replies.
const FLUSH: usize = 64;
/// Room that is made for what is read, and how little of it may be left.
const ROOM: usize = 64 << 10;
const LEAST_ROOM: usize = 4 << 10;

/// A handle on the connection.
#[derive(Clone)]
pub(super) struct Line {
    address: Arc<str>,
    requests: mpsc::Sender<Request>,
    /// Why it ended.
    ended: Arc<OnceLock<String>>,
}

/// Commands as Redis reads them.
#[derive(Debug, Default)]
pub(super) struct Commands {
    bytes: Vec<u8>,
    count: usize,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Replies {
    /// One for each command.
    pub(super) frames: Vec<BytesFrame>,
    /// The marker, where there was a question for it.
    pub(super) marker: Option<BytesFrame>,
}

struct Request {
    commands: Commands,
    /// The question for the marker.
    marker: Option<Bytes>,
    answer: oneshot::Sender<Replies>,
}

/// Requests that went out together, and what came back so far.
struct Flush {
    asked: Vec<Asked>,
    /// How many of them have all of their replies.
    whole: usize,
    has_marker: bool,
}

struct Asked {
    count: usize,
    frames: Vec<BytesFrame>,
    answer: oneshot::Sender<Replies>,
}

impl Commands {
    pub(super) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Begins a command of so many parts; they follow.
    pub(super) fn begin(&mut self, parts: usize) {
        self.count += 1;
        // About what an entity's name and some fields take.
        self.bytes.reserve(64 + 16 * parts);
        self.number(b'*', parts);
    }

    pub(super) fn part(&mut self, bytes: &[u8]) {
        self.number(b'$', bytes.len());
        self.bytes.extend_from_slice(bytes);
        self.bytes.extend_from_slice(b"\r\n");
    }

    pub(super) fn command(parts: &[&[u8]]) -> Self {
        let mut commands = Self::default();
        commands.add(parts);
        commands
    }

    fn add(&mut self, parts: &[&[u8]]) {
        self.begin(parts.len());
        parts.iter().for_each(|part| self.part(part));
    }

    pub(super) fn into_bytes(self) -> Bytes {
        self.bytes.into()
    }

    fn number(&mut self, kind: u8, number: usize) {
        self.bytes.push(kind);
        if let digit @ 0..10 = number {
            self.bytes.push(b'0' + digit as u8);
        } else {
            // A vector takes whatever is written to it.
            drop(write!(self.bytes, "{number}"));
        }
        self.bytes.extend_from_slice(b"\r\n");
    }
}

impl Line {
    /// Connects, says who asks, and chooses the database.
    pub(super) async fn open(url: &str, address: &str, call: &Call) -> Result<Self> {
        let failed = |error: &dyn fmt::Display| Error::Storage { doing: "connect to Redis", source: format!("{address}: {error}").into() };
        let info = url.into_connection_info().map_err(|error| failed(&error))?;
        let stream = call.within(TcpStream::connect(address)).await?.and_then(|stream| {
            stream.set_nodelay(true)?;
            Ok(stream)
        });
        let stream = stream.map_err(|error| failed(&error))?;
        let (requests, mut queue) = mpsc::channel(QUEUE);
        let line = Self { address: address.into(), requests, ended: Arc::default() };
        let ended = Arc::clone(&line.ended);
        tokio::spawn(async move {
            let mut under_way = VecDeque::new();
            let why = drive(stream, &mut queue, &mut under_way).await.map_or_else(|error| error.to_string(), |()| "nobody needs it".to_owned());
            // Before anybody who waits is told.
            drop(ended.set(why));
        });
        let (settings, mut greeting) = (info.redis_settings(), Commands::default());
        if let Some(password) = settings.password() {
            let who = [Some("AUTH"), settings.username(), Some(password)];
            greeting.add(&who.into_iter().flatten().map(str::as_bytes).collect::<Vec<_>>());
        }
        if settings.db() != 0 {
            greeting.add(&[b"SELECT", settings.db().to_string().as_bytes()]);
        }
        if !greeting.is_empty() {
            for frame in line.ask(greeting, None, call).await?.frames {
                if let BytesFrame::Error(refusal) = frame {
                    return Err(failed(&&*refusal));
                }
            }
        }
        Ok(line)
    }

    pub(super) fn is_alive(&self) -> bool {
        self.ended.get().is_none()
    }

    /// Sends commands, at least one, and waits for what comes back; refusals are among it.
    pub(super) async fn ask(&self, commands: Commands, marker: Option<Bytes>, call: &Call) -> Result<Replies> {
        let broke = |why: &str| call.failed(format!("the connection to Redis at {} broke: {why}", self.address));
        if let Some(why) = self.ended.get() {
            return Err(broke(why));
        }
        let (answer, answered) = oneshot::channel();
        let asking = async {
            self.requests.send(Request { commands, marker, answer }).await.ok()?;
            answered.await.ok()
        };
        match call.within(asking).await {
            Ok(Some(replies)) => Ok(replies),
            Ok(None) => Err(broke(self.ended.get().map_or("it ended", String::as_str))),
            Err(late) => {
                drop(self.ended.set("it did not answer in time".to_owned()));
                Err(late)
            }
        }
    }
}

impl Flush {
    /// Takes the next reply; gives itself back until that was the last.
    fn take(mut self, frame: BytesFrame) -> Option<Self> {
        let Some(asked) = self.asked.get_mut(self.whole) else {
            self.end(Some(frame));
            return None;
        };
        asked.frames.push(frame);
        self.whole += usize::from(asked.frames.len() == asked.count);
        if self.whole < self.asked.len() || self.has_marker {
            return Some(self);
        }
        self.end(None);
        None
    }

    fn end(self, marker: Option<BytesFrame>) {
        for Asked { frames, answer, .. } in self.asked {
            // Who was cancelled meanwhile needs no answer.
            drop(answer.send(Replies { frames, marker: marker.clone() }));
        }
    }
}

/// A reply's bytes; `None` where there are none.
pub(super) fn bytes(frame: BytesFrame) -> Option<Bytes> {
    match frame {
        BytesFrame::BulkString(bytes) => Some(bytes),
        _ => None,
    }
}

/// Writes what is asked and reads what comes back, until nobody can ask any more.
async fn drive(mut stream: TcpStream, queue: &mut mpsc::Receiver<Request>, under_way: &mut VecDeque<Flush>) -> io::Result<()> {
    let (mut from, mut to) = stream.split();
    let (mut input, mut output) = (BytesMut::with_capacity(ROOM), BytesMut::new());
    let mut waiting = Vec::new();
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    loop {
        if input.capacity() - input.len() < LEAST_ROOM {
            input.reserve(ROOM);
        }
        tokio::select! {
            biased;
            read = from.read_buf(&mut input) => {
                if read? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                while let Some((frame, ..)) = decode_bytes_mut(&mut input).map_err(|error| invalid(error.to_string()))? {
                    let flush = under_way.pop_front().ok_or_else(|| invalid("it answered what was not asked".to_owned()))?;
                    if let Some(flush) = flush.take(frame) {
                        under_way.push_front(flush);
                    }
                }
            }
            written = to.write_buf(&mut output), if !output.is_empty() => {
                written?;
            }
            count = queue.recv_many(&mut waiting, QUEUE), if output.is_empty() => {
                if count == 0 {
                    return Ok(());
                }
                // Who can ask by now goes with them: a look at the sockets costs less than one more write, here and at the other end.
                yield_now().await;
                waiting.extend(std::iter::from_fn(|| queue.try_recv().ok()));
                under_way.extend(flushes(&mut waiting, &mut output));
            }
        }
    }
}

/// Puts requests down, those of one marker together.
fn flushes(waiting: &mut Vec<Request>, output: &mut BytesMut) -> Vec<Flush> {
    let mut flushes: Vec<Flush> = Vec::new();
    let mut requests = waiting.drain(..).peekable();
    let mut commands_of_flush = 0;
    while let Some(Request { commands, marker, answer }) = requests.next() {
        let asked = Asked { count: commands.count, frames: Vec::with_capacity(commands.count), answer };
        output.extend_from_slice(&commands.bytes);
        match flushes.last_mut().filter(|_| commands_of_flush > 0) {
            Some(flush) => flush.asked.push(asked),
            None => flushes.push(Flush { asked: vec![asked], whole: 0, has_marker: marker.is_some() }),
        }
        commands_of_flush += commands.count;
        if commands_of_flush >= FLUSH || requests.peek().is_none_or(|next| next.marker != marker) {
            output.extend_from_slice(&marker.unwrap_or_default());
            commands_of_flush = 0;
        }
    }
    flushes
}

#[cfg(test)]
mod tests;
