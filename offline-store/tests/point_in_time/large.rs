//! More rows than one block of kept rows and one part of a list column hold.

use anabranch_core::columns::{column_of, value_at};
use anabranch_core::selection::Selection;
use anabranch_core::types::Scalar;
use anabranch_core::{Timestamp, Value};
use anabranch_offline_store::join::{JoinPlan, Knowledge};

use crate::world::{self, Memory, Row, Use, ViewSpec, data_type, definitions, table};

const ENTITIES: i64 = 90_000;
const ASKED: i64 = 80_000;

#[test]
fn rows_find_their_own_features_across_blocks_and_parts() {
    let features = vec![("x", data_type("i64")), ("list", data_type("list<i64>"))];
    let views = [ViewSpec { name: "view", keys: vec![("user", Scalar::I64)], known: false, lookback: None, features }];
    let uses = [Use { view: 0, alias: None, columns: vec!["user"] }];
    let list = |user: i64| Value::List((0..user % 4).map(|i| Value::I64(user + i)).collect());
    let row = |user: i64, event: i64, features: Vec<Value>| Row {
        key: vec![Value::I64(user)],
        event,
        known: None,
        arrival: 0,
        source: 0,
        position: user,
        tombstone: None,
        features,
    };
    // Each entity has an older row too, which is held for a while and must give way.
    let old = (0..ENTITIES).map(|user| row(user, 1, vec![Value::Null, Value::Null]));
    let new = (0..ENTITIES).map(|user| row(user, 5, vec![Value::I64(user * 10), list(user)]));
    let rows = vec![old.chain(new).collect::<Vec<_>>()];

    let users: Vec<_> = (0..ASKED).rev().map(Value::I64).collect();
    let times = vec![Value::Timestamp(Timestamp(9)); users.len()];
    let spine =
        table([("event_timestamp", column_of(data_type("timestamp"), &times).unwrap()), ("user", column_of(data_type("i64"), &users).unwrap())]);
    let selection = Selection::Service("all".to_owned());
    let options = world::options(Knowledge::Spine, false);
    let plan = JoinPlan::new(world::spine(&spine, 50_000).unwrap(), &selection, &definitions(&views, &uses), options).unwrap();
    let joined = world::run(plan, Memory { batch_rows: 5_000, ..Memory::new(&views, &rows) }).unwrap();

    let mut user = ASKED;
    for batch in &joined.batches {
        for place in 0..batch.num_rows() {
            user -= 1;
            assert_eq!(value_at(batch.column(2), data_type("i64"), place).unwrap(), Value::I64(user * 10));
            assert_eq!(value_at(batch.column(3), data_type("list<i64>"), place).unwrap(), list(user));
        }
    }
    assert_eq!(user, 0);
}
