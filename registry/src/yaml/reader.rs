//! YAML text to trees with places; knows nothing of definitions.
//!
//! A stack stands in for recursion, so that no depth of nesting can exhaust the real one. After a syntax error nothing more of the file is read: where
//! the next document begins can no longer be told.

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};

use super::YamlFile;
use crate::error::{Fault, Place};

/// The deepest nesting that is read; definitions need five.
const MAX_DEPTH: usize = 32;

/// A part of a document and where it begins.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) at: At,
    pub(super) content: Content,
}

/// Line and column, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct At {
    pub(super) line: usize,
    pub(super) column: usize,
}

#[derive(Debug)]
pub(super) enum Content {
    /// A text, and whether it stood without quotes.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Debug)]
pub(super) struct Key {
    pub(super) at: At,
    pub(super) text: String,
}

#[derive(Debug)]
enum Frame {
    List(At, Vec<Node>),
    Map(At, Vec<(Key, Node)>, Option<Key>),
}

/// The documents of a file that are whole and free of what is not supported, and the faults of the others.
pub(super) fn read(file: &YamlFile<'_>) -> (Vec<Node>, Vec<Fault>) {
    let mut reader = Reader { file: file.name, stack: Vec::new(), root: None, faults: Vec::new(), at_fault: false };
    let mut documents = Vec::new();
    let mut parser = Parser::new_from_str(file.text);
    while let Some(event) = parser.next_event() {
        match event {
            Ok((Event::DocumentStart(_), _)) => reader.at_fault = false,
            Ok((Event::DocumentEnd, _)) => documents.extend(reader.root.take().filter(|root| !reader.at_fault && !is_nothing(root))),
            Ok((event, span)) => {
                if !reader.take(event, at(&span.start)) {
                    break;
                }
            }
            Err(error) => {
                reader.refuse(at(error.marker()), format!("this is no YAML: {}", error.info()));
                break;
            }
        }
    }
    (documents, reader.faults)
}

struct Reader<'a> {
    file: &'a str,
    stack: Vec<Frame>,
    root: Option<Node>,
    faults: Vec<Fault>,
    at_fault: bool,
}

impl Reader<'_> {
    /// Takes an event within a document; false where it makes no sense to go on.
    fn take(&mut self, event: Event<'_>, at: At) -> bool {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.check_plainness(at, anchor, tag.is_some());
                self.finish(Node { at, content: Content::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain } });
            }
            Event::SequenceStart(anchor, tag) => {
                self.check_plainness(at, anchor, tag.is_some());
                self.stack.push(Frame::List(at, Vec::new()));
            }
            Event::MappingStart(anchor, tag) => {
                self.check_plainness(at, anchor, tag.is_some());
                self.stack.push(Frame::Map(at, Vec::new(), None));
            }
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(Frame::List(at, items)) => self.finish(Node { at, content: Content::List(items) }),
                Some(Frame::Map(at, entries, _)) => self.finish(Node { at, content: Content::Map(entries) }),
                None => {}
            },
            Event::Alias(_) => {
                self.refuse(at, "aliases are not supported: write the value out".to_owned());
                self.finish(Node { at, content: Content::Scalar { text: String::new(), plain: true } });
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {}
        }
        if self.stack.len() > MAX_DEPTH {
            self.refuse(at, format!("this is nested deeper than {MAX_DEPTH}"));
            return false;
        }
        true
    }

    /// Puts a node that is whole where it belongs.
    fn finish(&mut self, node: Node) {
        match self.stack.last_mut() {
            None => self.root = Some(node),
            Some(Frame::List(_, items)) => items.push(node),
            Some(Frame::Map(_, entries, pending)) => match pending.take() {
                Some(key) => entries.push((key, node)),
                None => {
                    let twice = |text: &str| entries.iter().any(|(key, _)| key.text == text);
                    let (key, reason) = match node.content {
                        Content::Scalar { text, .. } if twice(&text) => (text.clone(), Some(format!("key {text:?} is there twice"))),
                        Content::Scalar { text, .. } => (text, None),
                        Content::List(_) | Content::Map(_) => (String::new(), Some("a key must be a text".to_owned())),
                    };
                    *pending = Some(Key { at: node.at, text: key });
                    if let Some(reason) = reason {
                        self.refuse(node.at, reason);
                    }
                }
            },
        }
    }

    fn check_plainness(&mut self, at: At, anchor: usize, tagged: bool) {
        if anchor != 0 {
            self.refuse(at, "anchors are not supported: write the value out where it is needed".to_owned());
        }
        if tagged {
            self.refuse(at, "tags are not supported: quote a text, leave numbers plain".to_owned());
        }
    }

    fn refuse(&mut self, at: At, reason: String) {
        self.at_fault = true;
        let place = Some(Place { file: self.file.to_owned(), line: at.line, column: at.column });
        self.faults.push(Fault { place, kind: None, name: String::new(), path: String::new(), reason });
    }
}

/// Whether a document is empty, as between two `---`.
fn is_nothing(node: &Node) -> bool {
    matches!(&node.content, Content::Scalar { text, plain: true } if text.is_empty())
}

fn at(marker: &Marker) -> At {
    At { line: marker.line(), column: marker.col() + 1 }
}
