//! Serving: the features of many entities over several views, in one round trip to the store, as columns with an honest status for each value.
//!
//! A [`Lookup`] is resolved once, from the views that a selection names, and asked many times. Views that are looked up by the same columns of the
//! caller share their keys. Rows are decoded straight into [packed columns](anabranch_core::packed), which are the answer on the wire; rows of older
//! layouts are read by field id.
//!
//! # What a value's status says
//!
//! | status | when | value |
//! | -- | -- | -- |
//! | `NOT_FOUND` | the key has a null, there is no row, the row is a tombstone, or `now > event time + retention` | null |
//! | `OUTSIDE_TTL` | else, `now > event time + online_ttl` | null |
//! | `NULL_VALUE` | else, the value is null, or the row was written before the feature was added | null |
//! | `PRESENT` | else | the value |
//!
//! Both edges are inclusive: a value is served up to and at `event time + online_ttl`. A row whose event time is yet to come is served. `now` is the
//! caller's, one for the whole answer; the spans are those of the definitions that the lookup was resolved against.
//!
//! What is refused: key columns of another type, and more than [`MAX_LOOKUP_ROWS`] rows, for which decoding would hold up the runtime.

mod answer;
mod keys;

use std::sync::Arc;

use anabranch_core::packed::Packer;
use anabranch_core::selection::SelectedView;
use anabranch_core::{DataType, Generation, Span, Timestamp};
use bytes::Bytes;

pub use answer::{Answer, NO_EVENT_TIME, Status};
pub use keys::{KeyColumn, LookupKeys};

use crate::row::{PackedRow, RowReader};
use crate::{Error, Layout, Layouts, OnlineStore, ReadGroup, Result};
use keys::KeyGroup;

/// Most rows of one lookup.
pub const MAX_LOOKUP_ROWS: usize = 10_000;

/// A view to be looked up.
#[derive(Debug, Clone)]
pub struct Target {
    /// The view, its features and the caller's key columns.
    pub view: SelectedView,
    /// The generation that is served.
    pub generation: Generation,
    /// The layout of the view's fields as defined now.
    pub layout: Arc<Layout>,
}

/// A column of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// What it is called.
    pub name: String,
    /// Its type.
    pub data_type: DataType,
    /// The place of its view among the lookup's.
    pub view: usize,
}

/// Features of several views, ready to be looked up.
#[derive(Debug, Clone)]
pub struct Lookup {
    views: Vec<View>,
    columns: Vec<KeyColumn>,
    groups: Vec<Group>,
    features: Vec<Feature>,
    schema_id: u64,
    layouts: Arc<Layouts>,
}

#[derive(Debug, Clone)]
struct View {
    /// What the answer calls it.
    name: String,
    /// What its definition calls it.
    view: String,
    /// The place of its first feature among the lookup's.
    first: usize,
    wanted: Vec<(i32, DataType)>,
    reader: RowReader,
    ttl: Option<Span>,
    retention: Option<Span>,
}

/// What a row is worth now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judged {
    Served(Timestamp),
    Expired(Timestamp),
    Missing,
}

/// Views that are looked up by the same columns.
#[derive(Debug, Clone)]
struct Group {
    /// Places among the lookup's key columns, in the order of the views' join keys.
    columns: Vec<usize>,
    generations: Vec<Generation>,
    /// Places among the lookup's views, one for each generation.
    views: Vec<usize>,
}

impl Lookup {
    /// Prepares to look up the features of `targets`, in their order. `layouts` are those that rows may have been packed by.
    ///
    /// # Errors
    /// [`Error::KeyColumn`] where two views want unlike types of one column; [`Error::InvalidLayout`] where a layout is not of its view's features.
    pub fn new(targets: Vec<Target>, layouts: Arc<Layouts>) -> Result<Self> {
        let mut lookup =
            Self { views: Vec::with_capacity(targets.len()), columns: Vec::new(), groups: Vec::new(), features: Vec::new(), schema_id: 0, layouts };
        for Target { view, generation, layout } in targets {
            let columns = keys::columns_of(&view, &mut lookup.columns)?;
            let place = lookup.views.len();
            match lookup.groups.iter_mut().find(|group| group.columns == columns) {
                Some(group) => {
                    group.generations.push(generation);
                    group.views.push(place);
                }
                None => lookup.groups.push(Group { columns, generations: vec![generation], views: vec![place] }),
            }
            let prepared = View::new(&view, &layout, lookup.features.len())?;
            let feature = |(name, (_, data_type)): (&String, &(i32, DataType))| Feature { name: name.clone(), data_type: *data_type, view: place };
            lookup.features.extend(view.output.iter().zip(&prepared.wanted).map(feature));
            lookup.views.push(prepared);
        }
        lookup.schema_id = schema_id(&lookup);
        Ok(lookup)
    }

    /// The columns that a caller gives, each once, in the order in which the views name them.
    pub fn key_columns(&self) -> &[KeyColumn] {
        &self.columns
    }

    /// What the views are called, in the order in which the answer has their event times.
    pub fn views(&self) -> impl ExactSizeIterator<Item = &str> {
        self.views.iter().map(|view| view.name.as_str())
    }

    /// The columns of the answer.
    pub fn features(&self) -> &[Feature] {
        &self.features
    }

    /// Names the views and features with their types, so that who knows them need not be told again; never 0.
    pub const fn schema_id(&self) -> u64 {
        self.schema_id
    }

    /// The same lookup, in the generations that views have by now.
    ///
    /// # Errors
    /// [`Error::Replaced`] where a view has none.
    pub fn moved(&self, generation: impl Fn(&str) -> Option<Generation>) -> Result<Self> {
        let of = |place: &usize| generation(&self.views[*place].view).ok_or(Error::Replaced);
        let mut moved = self.clone();
        for group in &mut moved.groups {
            group.generations = group.views.iter().map(of).collect::<Result<_>>()?;
        }
        Ok(moved)
    }

    /// Looks the keys up, as of `now`.
    ///
    /// # Errors
    /// Those of the store; [`Error::Layout`] where a row is of a layout that is not known here; [`Error::Corrupt`] where a row is damaged.
    pub async fn run(&self, store: &dyn OnlineStore, keys: &LookupKeys, now: Timestamp) -> Result<Answer> {
        let rows = store.read(&self.groups(keys)).await?;
        self.answer(&rows, keys, now)
    }

    /// Lets the next lookup of these keys go to the store's medium: what somebody else wrote there, and says to be visible, must be seen.
    pub fn forget_cached(&self, store: &dyn OnlineStore, keys: &LookupKeys) {
        store.forget_cached(&self.groups(keys));
    }

    fn groups<'a>(&'a self, keys: &'a LookupKeys) -> Vec<ReadGroup<'a>> {
        self.groups.iter().zip(&keys.groups).map(|(group, keys)| ReadGroup { generations: &group.generations, keys: &keys.keys }).collect()
    }

    /// Judges and decodes what the store gave.
    fn answer(&self, rows: &[Option<Bytes>], keys: &LookupKeys, now: Timestamp) -> Result<Answer> {
        let mut packer = Packer::new(self.features.iter().map(|feature| feature.data_type), keys.rows);
        let mut answer = Answer::new(self.views.len(), self.features.len(), keys.rows, now);
        let mut rest = rows;
        for (group, keys) in self.groups.iter().zip(&keys.groups) {
            for place in &group.views {
                let (of_view, after) = rest.split_at_checked(keys.keys.len()).ok_or_else(|| Error::Corrupt {
                    what: "the online store's answer",
                    reason: "it has fewer rows than were asked for".to_owned(),
                })?;
                let view = &self.views[*place];
                view.answer(of_view, keys, &self.layouts, &mut packer, &mut answer, *place)?;
                rest = after;
            }
        }
        answer.values = packer.finish();
        Ok(answer)
    }
}

/// The first 8 bytes of a hash over what a caller has to know of an answer's columns.
fn schema_id(lookup: &Lookup) -> u64 {
    let mut hasher = blake3::Hasher::new();
    let mut text = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    lookup.views().for_each(&mut text);
    for feature in &lookup.features {
        text(&feature.name);
        text(&feature.data_type.to_string());
        text(&feature.view.to_string());
    }
    hasher.finalize().as_bytes().first_chunk().map_or(1, |bytes| u64::from_le_bytes(*bytes).max(1))
}

impl View {
    fn new(selected: &SelectedView, layout: &Layout, first: usize) -> Result<Self> {
        let definition = selected.layout.view();
        if !definition.fields.iter().map(|field| field.data_type).eq(layout.fields().iter().map(|(_, data_type)| *data_type)) {
            return Err(Error::InvalidLayout(format!("it has not the types of the features of {:?}", definition.name)));
        }
        let wanted: Vec<_> = selected.features.iter().filter_map(|feature| layout.fields().get(*feature)).copied().collect();
        let reader = RowReader::new(layout, &wanted)?;
        let view = definition.name.clone();
        Ok(Self { name: selected.name.clone(), view, first, reader, wanted, ttl: definition.online_ttl, retention: definition.retention })
    }

    fn answer(
        &self,
        rows: &[Option<Bytes>],
        keys: &KeyGroup,
        layouts: &Layouts,
        packer: &mut Packer,
        answer: &mut Answer,
        place: usize,
    ) -> Result<()> {
        let mut others = Vec::new();
        let mut rows = rows.iter();
        for (at, has_key) in keys.has_key.iter().enumerate() {
            let row = if *has_key { rows.next().and_then(Option::as_ref) } else { None };
            let row = row.map(|row| PackedRow::parse(row)).transpose()?;
            let judged = row.map_or(Judged::Missing, |row| self.judge(row, answer.as_of));
            if let (Some(row), Judged::Served(time)) = (row, judged) {
                answer.set_event_time(place, at, time);
                let reader = self.reader(row, layouts, &mut others)?;
                reader.read(row, packer, self.first, at, |feature| answer.set_status(self.first + feature, at, Status::NullValue))?;
                continue;
            }
            let status = match judged {
                Judged::Expired(time) => {
                    answer.set_event_time(place, at, time);
                    Status::OutsideTtl
                }
                Judged::Missing | Judged::Served(_) => Status::NotFound,
            };
            for feature in self.first..self.first + self.wanted.len() {
                answer.set_status(feature, at, status);
                packer.skip(feature)?;
            }
        }
        Ok(())
    }

    fn judge(&self, row: PackedRow<'_>, now: Timestamp) -> Judged {
        let event_time = row.event_time();
        let is_past = |span: Option<Span>| span.is_some_and(|span| now > event_time.plus(span));
        if row.is_tombstone() || is_past(self.retention) {
            Judged::Missing
        } else if is_past(self.ttl) {
            Judged::Expired(event_time)
        } else {
            Judged::Served(event_time)
        }
    }

    /// The reader for a row's layout; those of other layouts than today's are made once for an answer.
    fn reader<'a>(&'a self, row: PackedRow<'_>, layouts: &Layouts, others: &'a mut Vec<RowReader>) -> Result<&'a RowReader> {
        let fingerprint = row.fingerprint();
        if fingerprint == self.reader.fingerprint() {
            return Ok(&self.reader);
        }
        let place = match others.iter().position(|reader| reader.fingerprint() == fingerprint) {
            Some(place) => place,
            None => {
                let unknown = || Error::Layout { fingerprint, reason: "it is not known here".to_owned() };
                others.push(RowReader::new(&*layouts.get(fingerprint).ok_or_else(unknown)?, &self.wanted)?);
                others.len() - 1
            }
        };
        Ok(&others[place])
    }
}

#[cfg(test)]
mod tests;
