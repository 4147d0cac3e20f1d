//! Serving: the features of many entities over several views, in one round trip to the store, as columns with an honest status for each value.
//!
//! A [`Lookup`] is resolved once, from the views that a selection names, and asked many times. Views that are looked up by the same columns of the
//! caller share their keys. Rows are decoded straight into columns; rows of older layouts are read by field id.
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

use anabranch_core::selection::SelectedView;
use anabranch_core::{DataType, Generation, Span, Timestamp};
use bytes::Bytes;

pub use answer::{Answer, Found, Status, ViewAnswer};
pub use keys::{KeyColumn, LookupKeys};

use crate::row::{ColumnSink, PackedRow, RowReader};
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

/// Features of several views, ready to be looked up.
#[derive(Debug)]
pub struct Lookup {
    views: Vec<View>,
    columns: Vec<KeyColumn>,
    groups: Vec<Group>,
    layouts: Arc<Layouts>,
}

#[derive(Debug)]
struct View {
    selected: SelectedView,
    wanted: Vec<(i32, DataType)>,
    reader: RowReader,
    ttl: Option<Span>,
    retention: Option<Span>,
}

/// Views that are looked up by the same columns.
#[derive(Debug)]
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
        let mut lookup = Self { views: Vec::with_capacity(targets.len()), columns: Vec::new(), groups: Vec::new(), layouts };
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
            lookup.views.push(View::new(view, &layout)?);
        }
        Ok(lookup)
    }

    /// The columns that a caller gives, each once, in the order in which the views name them.
    pub fn key_columns(&self) -> &[KeyColumn] {
        &self.columns
    }

    /// The views, in the order of the answer's.
    pub fn views(&self) -> impl ExactSizeIterator<Item = &SelectedView> {
        self.views.iter().map(|view| &view.selected)
    }

    /// Looks the keys up, as of `now`.
    ///
    /// # Errors
    /// Those of the store; [`Error::Layout`] where a row is of a layout that is not known here; [`Error::Corrupt`] where a row is damaged.
    pub async fn run(&self, store: &dyn OnlineStore, keys: &LookupKeys, now: Timestamp) -> Result<Answer> {
        let groups: Vec<_> =
            self.groups.iter().zip(&keys.groups).map(|(group, keys)| ReadGroup { generations: &group.generations, keys: &keys.keys }).collect();
        let rows = store.read(&groups).await?;
        self.answer(&rows, keys, now)
    }

    /// Judges and decodes what the store gave.
    fn answer(&self, rows: &[Option<Bytes>], keys: &LookupKeys, now: Timestamp) -> Result<Answer> {
        let mut views: Vec<_> = self.views.iter().map(|_| ViewAnswer::default()).collect();
        let mut rest = rows;
        for (group, keys) in self.groups.iter().zip(&keys.groups) {
            for place in &group.views {
                let (of_view, after) = rest.split_at_checked(keys.keys.len()).ok_or_else(|| Error::Corrupt {
                    what: "the online store's answer",
                    reason: "it has fewer rows than were asked for".to_owned(),
                })?;
                views[*place] = self.views[*place].answer(of_view, keys, now, &self.layouts)?;
                rest = after;
            }
        }
        Ok(Answer { rows: keys.rows, views })
    }
}

impl View {
    fn new(selected: SelectedView, layout: &Layout) -> Result<Self> {
        let definition = selected.layout.view();
        if !definition.fields.iter().map(|field| field.data_type).eq(layout.fields().iter().map(|(_, data_type)| *data_type)) {
            return Err(Error::InvalidLayout(format!("it has not the types of the features of {:?}", definition.name)));
        }
        let wanted: Vec<_> = selected.features.iter().filter_map(|feature| layout.fields().get(*feature)).copied().collect();
        let reader = RowReader::new(layout, &wanted)?;
        let (ttl, retention) = (definition.online_ttl, definition.retention);
        Ok(Self { selected, wanted, reader, ttl, retention })
    }

    fn answer(&self, rows: &[Option<Bytes>], keys: &KeyGroup, now: Timestamp, layouts: &Layouts) -> Result<ViewAnswer> {
        let count = keys.has_key.len();
        let mut sinks: Vec<_> = self.wanted.iter().map(|(_, data_type)| ColumnSink::new(*data_type, count)).collect();
        let mut found = Vec::with_capacity(count);
        let mut others = Vec::new();
        let mut rows = rows.iter();
        for has_key in &keys.has_key {
            let row = if *has_key { rows.next().and_then(Option::as_ref) } else { None };
            let row = row.map(|row| PackedRow::parse(row)).transpose()?;
            let judged = row.map_or(Found::Missing, |row| self.judge(row, now));
            match (row, judged) {
                (Some(row), Found::Served(_)) => self.reader(row, layouts, &mut others)?.read(row, &mut sinks)?,
                _ => sinks.iter_mut().for_each(ColumnSink::push_null),
            }
            found.push(judged);
        }
        let columns = sinks.into_iter().map(ColumnSink::finish).collect::<Result<_>>()?;
        Ok(ViewAnswer { found, columns })
    }

    fn judge(&self, row: PackedRow<'_>, now: Timestamp) -> Found {
        let event_time = row.event_time();
        let is_past = |span: Option<Span>| span.is_some_and(|span| now > event_time.plus(span));
        if row.is_tombstone() || is_past(self.retention) {
            Found::Missing
        } else if is_past(self.ttl) {
            Found::Expired(event_time)
        } else {
            Found::Served(event_time)
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
