//! Where definitions and their fields stand in files, so that a fault found later still names its line.

use std::collections::BTreeMap;

use anabranch_core::definition::{Definition, DefinitionKind};

use super::reader::At;
use crate::Error;
use crate::error::{Fault, Place};

/// A field's path, its text where it is a scalar, and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Spot {
    pub(super) path: String,
    pub(super) text: Option<String>,
    pub(super) at: At,
}

/// The fields of one document in the order in which they are written; the first is the whole document, with an empty path.
#[derive(Debug, Clone)]
pub(super) struct Spots {
    pub(super) file: String,
    pub(super) spots: Vec<Spot>,
}

impl Spots {
    /// Where a field stands, or else the nearest one around it that is written.
    pub(super) fn find(&self, path: &str) -> Place {
        let mut path = path;
        loop {
            if let Some(spot) = self.spots.iter().find(|spot| spot.path == path) {
                return self.place(spot.at);
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return self.place(self.spots.first().map_or(At { line: 1, column: 1 }, |spot| spot.at)),
            }
        }
    }

    /// Where a text stands as the value of a field whose path passes.
    pub(super) fn find_text(&self, text: &str, passes: impl Fn(&str) -> bool) -> Option<Place> {
        let found = self.spots.iter().find(|spot| spot.text.as_deref() == Some(text) && passes(&spot.path));
        found.map(|spot| self.place(spot.at))
    }

    fn place(&self, at: At) -> Place {
        Place { file: self.file.clone(), line: at.line, column: at.column }
    }
}

/// Where definitions stand in files.
#[derive(Debug, Clone, Default)]
pub struct Places {
    by_definition: BTreeMap<(DefinitionKind, String), (Definition, Spots)>,
}

impl Places {
    /// Remembers a definition; where it was there already, its name's place here and there.
    pub(super) fn insert(&mut self, definition: &Definition, spots: Spots) -> Option<(Place, Place)> {
        let identity = (definition.kind(), definition.name().to_owned());
        if let Some((_, first)) = self.by_definition.get(&identity) {
            return Some((spots.find("name"), first.find("name")));
        }
        self.by_definition.insert(identity, (definition.clone(), spots));
        None
    }

    /// Where a field of a definition stands; the path is in the definition's canonical form.
    pub fn find(&self, kind: DefinitionKind, name: &str, path: &str) -> Option<Place> {
        let (definition, spots) = self.by_definition.get(&(kind, name.to_owned()))?;
        // Entities are sorted in canonical form and may have been written in another order.
        if let Definition::FeatureView(view) = definition
            && let Some(index) = path.strip_prefix("entities[").and_then(|rest| rest.strip_suffix(']'))
            && let Some(entity) = index.parse::<usize>().ok().and_then(|index| view.entities.get(index))
            && let Some(place) = spots.find_text(entity, |path| path.starts_with("entities["))
        {
            return Some(place);
        }
        Some(spots.find(path))
    }

    /// The same error with the place of every fault that lies in one of the files.
    #[must_use]
    pub fn locate(&self, error: Error) -> Error {
        let Error::Invalid { faults } = error else { return error };
        let locate = |fault: Fault| {
            let found = fault.kind.and_then(|kind| self.find(kind, &fault.name, &fault.path));
            Fault { place: fault.place.clone().or(found), ..fault }
        };
        let mut faults: Vec<_> = faults.into_iter().map(locate).collect();
        faults.sort_by(|a, b| (a.place.is_none(), &a.place).cmp(&(b.place.is_none(), &b.place)));
        Error::Invalid { faults }
    }
}
