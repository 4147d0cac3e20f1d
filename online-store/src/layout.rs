//! Which fields a packed row holds, and where: a list of field ids with their types, in the order of the view's fields.
//!
//! A row names its layout by a fingerprint, the first 8 bytes of the BLAKE3 hash of the layout's canonical bytes, read as a little-endian number.
//! Layouts are kept, repository-wide, for as long as rows use them. The canonical bytes, numbers little-endian:
//!
//! ```text
//! 0   1       5            then for each field:  +0         +4    +5      +9
//! +---+-------+                                  +----------+-----+-------+
//! | 1 | count |                                  | field id | tag | size  |
//! +---+-------+                                  +----------+-----+-------+
//! ```
//!
//! The first byte is the format version. The tag is that of a scalar (bool 1, i32 2, i64 3, f32 4, f64 5, string 6, bytes 7, timestamp 8), the same
//! plus 16 for a list of it, or 32 for a vector; the size is the length of a vector and 0 otherwise.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use anabranch_core::types::MAX_VECTOR;
use anabranch_core::{DataType, Scalar};

use crate::{Error, Result};

const FORMAT: u8 = 1;
const LIST: u8 = 16;
const VECTOR: u8 = 32;
const SCALARS: [Scalar; 8] = [Scalar::Bool, Scalar::I32, Scalar::I64, Scalar::F32, Scalar::F64, Scalar::String, Scalar::Bytes, Scalar::Timestamp];

/// Most fields of a layout.
pub const MAX_FIELDS: usize = 65_535;

/// The fields of a packed row, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    fields: Vec<(i32, DataType)>,
    fingerprint: u64,
    slots: Vec<Slot>,
    slot_bytes: usize,
}

/// Where a field lies in a row, counted from the first slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) at: usize,
    /// Bytes of a value that lies in the slot itself; `None` where the slot holds the end of one in the heap.
    pub(crate) width: Option<usize>,
    /// The slot that says where this one's value in the heap begins; `None` for the heap's start.
    pub(crate) begins: Option<usize>,
}

impl Layout {
    /// A layout of these fields, each a field id and a type.
    ///
    /// # Errors
    /// [`Error::InvalidLayout`] where a field id is there twice or there are too many fields.
    pub fn new(fields: Vec<(i32, DataType)>) -> Result<Self> {
        if fields.len() > MAX_FIELDS {
            return Err(Error::InvalidLayout(format!("{} fields are more than {MAX_FIELDS}", fields.len())));
        }
        let mut ids: Vec<_> = fields.iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::InvalidLayout(format!("field id {} is there twice", twice[0])));
        }
        let mut layout = Self { fields, fingerprint: 0, slots: Vec::new(), slot_bytes: 0 };
        layout.place();
        let hash = blake3::hash(&layout.to_bytes());
        layout.fingerprint = hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        Ok(layout)
    }

    /// The field ids with their types.
    pub fn fields(&self) -> &[(i32, DataType)] {
        &self.fields
    }

    /// What rows of this layout carry as its name.
    pub const fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        bytes.extend((self.fields.len() as u32).to_le_bytes());
        for (id, data_type) in &self.fields {
            let (tag, size) = tag(*data_type);
            bytes.extend(id.to_le_bytes());
            bytes.push(tag);
            bytes.extend(size.to_le_bytes());
        }
        bytes
    }

    /// Reads canonical bytes.
    ///
    /// # Errors
    /// [`Error::NewerFormat`], or [`Error::Corrupt`] where they are no layout.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let corrupt = |reason: &str| Error::Corrupt { what: "packed row layout", reason: reason.to_owned() };
        match bytes.first() {
            Some(&FORMAT) => {}
            Some(&found) if found > FORMAT => return Err(Error::NewerFormat { what: "packed row layout", found, known: FORMAT }),
            _ => return Err(corrupt("it has no known format")),
        }
        let (count, fields) = bytes[1..].split_first_chunk::<4>().ok_or_else(|| corrupt("it is cut short"))?;
        if fields.len() as u64 != u64::from(u32::from_le_bytes(*count)) * 9 {
            return Err(corrupt("it has not as many fields as it says"));
        }
        let read = |field: &[u8]| {
            let (id, rest) = field.split_first_chunk::<4>()?;
            let (tag, size) = rest.split_first()?;
            Some((i32::from_le_bytes(*id), untag(*tag, u32::from_le_bytes(*size.first_chunk()?))?))
        };
        let fields = fields.chunks_exact(9).map(read).collect::<Option<Vec<_>>>().ok_or_else(|| corrupt("a field has no known type"))?;
        Self::new(fields).map_err(|error| corrupt(&error.to_string()))
    }

    pub(crate) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Bytes of the null bits.
    pub(crate) fn null_bytes(&self) -> usize {
        self.fields.len().div_ceil(8)
    }

    /// Bytes of the slots.
    pub(crate) const fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    /// The place of a field id.
    pub(crate) fn position(&self, id: i32) -> Option<usize> {
        self.fields.iter().position(|(known, _)| *known == id)
    }

    fn place(&mut self) {
        let mut at = 0;
        let mut begins = None;
        for (_, data_type) in &self.fields {
            let width = match data_type {
                DataType::Scalar(scalar) => width(*scalar),
                DataType::List(_) | DataType::Vector(_) => None,
            };
            self.slots.push(Slot { at, width, begins });
            if width.is_none() {
                begins = Some(at);
            }
            at += width.unwrap_or(4);
        }
        self.slot_bytes = at;
    }
}

/// Bytes of a scalar; `None` where they vary.
pub(crate) const fn width(scalar: Scalar) -> Option<usize> {
    match scalar {
        Scalar::Bool => Some(1),
        Scalar::I32 | Scalar::F32 => Some(4),
        Scalar::I64 | Scalar::F64 | Scalar::Timestamp => Some(8),
        Scalar::String | Scalar::Bytes => None,
    }
}

fn tag(data_type: DataType) -> (u8, u32) {
    // `SCALARS` names every scalar; a new one must be added there, which the test of the tags says.
    let of = |scalar: Scalar| SCALARS.iter().position(|known| *known == scalar).map_or(0, |place| place as u8 + 1);
    match data_type {
        DataType::Scalar(scalar) => (of(scalar), 0),
        DataType::List(scalar) => (LIST + of(scalar), 0),
        DataType::Vector(n) => (VECTOR, n),
    }
}

fn untag(tag: u8, size: u32) -> Option<DataType> {
    let scalar = |tag: u8| SCALARS.get(usize::from(tag).checked_sub(1)?).copied();
    match (tag, size) {
        (VECTOR, 1..=MAX_VECTOR) => Some(DataType::Vector(size)),
        (1..LIST, 0) => scalar(tag).map(DataType::Scalar),
        (LIST..VECTOR, 0) => scalar(tag - LIST).map(DataType::List),
        _ => None,
    }
}

/// The layouts of a repository, by fingerprint. Shared by all who read rows; the caller keeps the bytes of each for as long as rows use it.
#[derive(Debug, Default)]
pub struct Layouts(RwLock<HashMap<u64, Arc<Layout>>>);

impl Layouts {
    /// No layouts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a layout and gives the shared one.
    ///
    /// # Errors
    /// [`Error::Fingerprint`] where another layout has its fingerprint.
    pub fn insert(&self, layout: Layout) -> Result<Arc<Layout>> {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let fingerprint = layout.fingerprint();
        let known = map.entry(fingerprint).or_insert_with(|| Arc::new(layout.clone()));
        if **known == layout { Ok(Arc::clone(known)) } else { Err(Error::Fingerprint(fingerprint)) }
    }

    /// The layout of a fingerprint.
    pub fn get(&self, fingerprint: u64) -> Option<Arc<Layout>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&fingerprint).map(Arc::clone)
    }

    /// Every layout, in no order.
    pub fn all(&self) -> Vec<Arc<Layout>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().map(Arc::clone).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layout(fields: &[(i32, &str)]) -> Layout {
        Layout::new(fields.iter().map(|(id, text)| (*id, text.parse().unwrap())).collect()).unwrap()
    }

    #[test]
    fn every_type_survives_its_bytes() {
        let scalars = ["bool", "i32", "i64", "f32", "f64", "string", "bytes", "timestamp"];
        let types = scalars.iter().flat_map(|name| [(*name).to_owned(), format!("list<{name}>")]).chain(["vector<65536>".to_owned()]);
        let fields = types.enumerate().map(|(id, text)| (id as i32, text.parse().unwrap())).collect();
        let layout = Layout::new(fields).unwrap();
        assert_eq!(Layout::from_bytes(&layout.to_bytes()).unwrap(), layout);
    }

    #[test]
    fn the_fingerprint_tells_ids_types_and_order_apart() {
        let base = layout(&[(1, "i64"), (2, "f64")]);
        for other in [layout(&[(2, "f64"), (1, "i64")]), layout(&[(1, "i64"), (3, "f64")]), layout(&[(1, "i64"), (2, "f32")])] {
            assert_ne!(base.fingerprint(), other.fingerprint());
        }
        assert_eq!(base.fingerprint(), layout(&[(1, "i64"), (2, "f64")]).fingerprint());
    }

    #[test]
    fn a_newer_format_and_a_field_id_twice_are_refused() {
        let mut bytes = layout(&[(1, "i64")]).to_bytes();
        bytes[0] = 2;
        assert!(matches!(Layout::from_bytes(&bytes), Err(Error::NewerFormat { found: 2, .. })));
        assert!(Layout::new(vec![(1, DataType::Vector(2)), (1, DataType::Vector(3))]).is_err());
    }

    #[test]
    fn a_registry_shares_equal_layouts() {
        let layouts = Layouts::new();
        let first = layouts.insert(layout(&[(1, "i64")])).unwrap();
        assert!(Arc::ptr_eq(&first, &layouts.insert(layout(&[(1, "i64")])).unwrap()));
        assert_eq!(layouts.get(first.fingerprint()).unwrap(), first);
        assert!(layouts.get(0).is_none());
        assert_eq!(layouts.all().len(), 1);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_layout_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..60), well_begun in any::<bool>()) {
            if well_begun && bytes.len() >= 5 {
                let count = (bytes.len() - 5) / 9;
                bytes.truncate(5 + count * 9);
                bytes[0] = FORMAT;
                bytes[1..5].copy_from_slice(&(count as u32).to_le_bytes());
            }
            if let Ok(layout) = Layout::from_bytes(&bytes) {
                prop_assert_eq!(layout.to_bytes(), bytes);
            }
        }
    }
}
