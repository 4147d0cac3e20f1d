//! The join by the letter of DESIGN section 5: for each row of the spine, every row of the view is looked at.

use anabranch_core::Value;
use anabranch_offline_store::join::{JoinOptions, Knowledge};

use crate::world::{Row, ViewSpec};

/// The features of the row that a spine row with this key and time matches, all null where there is none.
pub(crate) fn features(spec: &ViewSpec, rows: &[Row], key: &[Value], time: i64, options: JoinOptions) -> Vec<Value> {
    let nothing = vec![Value::Null; spec.features.len()];
    if key.iter().any(Value::is_null) {
        return nothing;
    }
    let is_candidate = |row: &&Row| {
        let same_key = row.key.iter().zip(key).all(|(a, b)| same(a, b));
        let upper = if options.strict { row.event < time } else { row.event <= time };
        let lower = spec.lookback.is_none_or(|lookback| i128::from(row.event) >= i128::from(time) - i128::from(lookback));
        let known = match options.knowledge {
            Knowledge::Spine => row.known_time() <= time,
            Knowledge::Any => true,
            Knowledge::At(at) => row.known_time() <= at.micros(),
        };
        same_key && upper && lower && known
    };
    match rows.iter().filter(is_candidate).max_by_key(|row| row.order()) {
        Some(row) if row.tombstone != Some(true) => row.features.clone(),
        _ => nothing,
    }
}

/// Whether two parts of a key are one: integers of every width are.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::I32(a), Value::I64(b)) | (Value::I64(b), Value::I32(a)) => i64::from(*a) == *b,
        (a, b) => !a.is_null() && a == b,
    }
}
