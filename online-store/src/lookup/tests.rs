use anabranch_core::columns::{column_of, value_at};
use anabranch_core::definition::{Definition, Definitions, Entity, FeatureService, FeatureView, Projection};
use anabranch_core::packed::Sections;
use anabranch_core::selection::Selection;
use anabranch_core::{ErrorKind, Kinded, RandomIds, RowOrder, Scalar, Value};
use arrow::buffer::{BooleanBuffer, Buffer};

use super::*;
use crate::row::{RowEncoder, encode_tombstone};
use crate::testkit::{at, entity};
use crate::{MemoryOnlineStore, Write};

const F64: DataType = DataType::Scalar(Scalar::F64);
const I64: DataType = DataType::Scalar(Scalar::I64);

fn definitions() -> Definitions {
    let weather = FeatureView { retention: Some(Span(100)), ..FeatureView::new("weather", "hour") };
    let weather = weather.entity("airport").field("temp", F64).field("wind", I64).online_ttl(Span(10));
    let traffic = FeatureView::new("traffic", "hour").entity("airport").field("flights", I64);
    let crew = FeatureView::new("crew", "hour").entity("person").field("hours", I64);
    let mut routes = FeatureService::new("routes").with(Projection::all("weather")).with(Projection::all("traffic"));
    routes = routes.with(Projection {
        alias: Some("there".into()),
        features: Some(vec!["wind".into()]),
        key_map: [("airport_id".to_owned(), "dest".to_owned())].into(),
        ..Projection::all("weather")
    });
    let all = [
        Definition::Entity(Entity::new("airport", "airport_id", Scalar::I32)),
        Definition::Entity(Entity::new("person", "name", Scalar::String)),
        Definition::FeatureView(weather),
        Definition::FeatureView(traffic),
        Definition::FeatureView(crew),
        Definition::FeatureService(routes),
    ];
    all.into_iter().map(|definition| definition.normalized().unwrap()).collect()
}

/// A store with the layouts of its views: generation 1 is weather's, 2 traffic's, 3 crew's.
struct World {
    store: MemoryOnlineStore,
    layouts: Arc<Layouts>,
}

impl World {
    fn new() -> Self {
        Self { store: MemoryOnlineStore::new(&RandomIds::seeded(1)), layouts: Arc::new(Layouts::new()) }
    }

    fn layout(&self, view: &str) -> (Generation, Arc<Layout>) {
        let (generation, fields) = match view {
            "weather" => (1, vec![(1, F64), (2, I64)]),
            "traffic" => (2, vec![(1, I64)]),
            _ => (3, vec![(9, I64)]),
        };
        (Generation(generation), self.layouts.insert(Layout::new(fields).unwrap()).unwrap())
    }

    fn lookup(&self, selection: &Selection) -> Result<Lookup> {
        let target = |view: SelectedView| {
            let (generation, layout) = self.layout(view.layout.name());
            Target { view, generation, layout }
        };
        let targets = selection.resolve(&definitions(), &[], false).unwrap().into_iter().map(target).collect();
        Lookup::new(targets, Arc::clone(&self.layouts))
    }

    fn features(&self, features: &[&str]) -> Lookup {
        self.lookup(&Selection::Features(features.iter().map(|f| (*f).to_owned()).collect())).unwrap()
    }

    async fn put(&self, generation: Generation, layout: &Layout, i: i64, order: RowOrder, values: &[Value]) {
        let columns: Vec<_> = layout.fields().iter().zip(values).map(|((_, data_type), value)| column_of(*data_type, [value]).unwrap()).collect();
        let mut row = Vec::new();
        if values.is_empty() {
            encode_tombstone(order, layout, &mut row);
        } else {
            RowEncoder::new(layout, &columns).unwrap().encode(0, order, &mut row).unwrap();
        }
        self.store.write(&[Write { generation, key: entity(i), row: row.into() }]).await.unwrap();
    }

    async fn put_weather(&self, i: i64, event_time: i64, values: &[Value]) {
        let (generation, layout) = self.layout("weather");
        self.put(generation, &layout, i, at(event_time), values).await;
    }

    async fn run(&self, lookup: &Lookup, keys: &[Value], now: i64) -> Result<Answer> {
        let columns: Vec<_> = lookup.key_columns().iter().map(|column| column_of(DataType::Scalar(column.scalar), keys).unwrap()).collect();
        let by_column = lookup.keys(&columns).unwrap();
        let by_value = lookup.keys_of_values(&vec![keys.to_vec(); columns.len()]).unwrap();
        let answer = lookup.run(&self.store, &by_column, Timestamp(now)).await?;
        let again = lookup.run(&self.store, &by_value, Timestamp(now)).await?;
        assert_eq!(answer, again, "columns and values are looked up alike");
        Ok(answer)
    }
}

fn ints(keys: &[i32]) -> Vec<Value> {
    keys.iter().map(|i| Value::I32(*i)).collect()
}

/// The values of a feature; null wherever the status says that there is none, and then the cell is zero or empty.
fn values(lookup: &Lookup, answer: &Answer, feature: usize) -> Vec<Value> {
    let types: Vec<_> = lookup.features().iter().map(|feature| feature.data_type).collect();
    let values = Buffer::from(answer.values.clone());
    let sections = Sections::new(&types, answer.rows, &values).unwrap();
    let valid = |feature| Some(answer.statuses_of(feature).iter().map(|status| *status == Status::Present as u8).collect::<BooleanBuffer>());
    let columns = sections.arrays(&values, valid).unwrap();
    (0..answer.rows).map(|row| value_at(&columns[feature], types[feature], row).unwrap()).collect()
}

fn statuses(answer: &Answer, feature: usize) -> Vec<&'static str> {
    answer.statuses_of(feature).iter().map(|byte| Status::of_byte(*byte).unwrap().name()).collect()
}

#[tokio::test]
async fn each_value_has_an_honest_status() {
    let world = World::new();
    world.put_weather(1, 100, &[Value::F64(0.5), Value::Null]).await;
    world.put_weather(2, 100, &[]).await;
    world.put_weather(3, 50, &[Value::F64(1.0), Value::I64(1)]).await;
    let lookup = world.features(&["weather:wind", "weather:temp"]);
    let keys = [ints(&[3, 1, 2]), vec![Value::Null], ints(&[9, 1])].concat();
    let answer = world.run(&lookup, &keys, 100).await.unwrap();
    assert_eq!(answer.rows, 6);
    assert_eq!(statuses(&answer, 0), ["OUTSIDE_TTL", "NULL_VALUE", "NOT_FOUND", "NOT_FOUND", "NOT_FOUND", "NULL_VALUE"]);
    assert_eq!(statuses(&answer, 1), ["OUTSIDE_TTL", "PRESENT", "NOT_FOUND", "NOT_FOUND", "NOT_FOUND", "PRESENT"]);
    let temp = [Value::Null, Value::F64(0.5), Value::Null, Value::Null, Value::Null, Value::F64(0.5)];
    assert_eq!(values(&lookup, &answer, 1), temp);
    assert_eq!(answer.event_times_of(0), [50, 100, NO_EVENT_TIME, NO_EVENT_TIME, NO_EVENT_TIME, 100]);
}

#[tokio::test]
async fn both_edges_of_ttl_and_retention_are_inclusive_and_the_future_is_served() {
    let world = World::new();
    world.put_weather(1, 1_000, &[Value::F64(0.5), Value::I64(7)]).await;
    let lookup = world.features(&["weather:wind"]);
    let cases = [(0, "PRESENT"), (1_010, "PRESENT"), (1_011, "OUTSIDE_TTL"), (1_100, "OUTSIDE_TTL"), (1_101, "NOT_FOUND"), (i64::MAX, "NOT_FOUND")];
    for (now, expected) in cases {
        let answer = world.run(&lookup, &ints(&[1]), now).await.unwrap();
        assert_eq!(statuses(&answer, 0), [expected], "at {now}");
        assert_eq!(values(&lookup, &answer, 0)[0].is_null(), expected != "PRESENT");
    }
    let endless = world.features(&["traffic"]);
    let (generation, layout) = world.layout("traffic");
    world.put(generation, &layout, 1, at(i64::MIN), &[Value::I64(3)]).await;
    assert_eq!(statuses(&world.run(&endless, &ints(&[1]), i64::MAX).await.unwrap(), 0), ["PRESENT"]);
}

#[tokio::test]
async fn a_service_over_several_views_and_an_alias_is_one_read() {
    let world = World::new();
    world.put_weather(1, 100, &[Value::F64(0.5), Value::I64(11)]).await;
    world.put_weather(2, 100, &[Value::F64(0.5), Value::I64(22)]).await;
    let (generation, layout) = world.layout("traffic");
    world.put(generation, &layout, 1, at(1), &[Value::I64(333)]).await;
    let lookup = world.lookup(&Selection::Service("routes".into())).unwrap();
    let names: Vec<_> = lookup.key_columns().iter().map(|column| (column.name.as_str(), column.scalar)).collect();
    assert_eq!(names, [("airport_id", Scalar::I32), ("dest", Scalar::I32)]);
    let outputs: Vec<_> = lookup.features().iter().map(|feature| (feature.name.as_str(), feature.view)).collect();
    assert_eq!(outputs, [("temp", 0), ("weather__wind", 0), ("flights", 1), ("there__wind", 2)]);
    assert_eq!(lookup.views().collect::<Vec<_>>(), ["weather", "traffic", "there"]);
    let columns = [[1, 2], [2, 1]].map(|column| column_of(I64, &column.map(Value::I64)).unwrap());
    let answer = lookup.run(&world.store, &lookup.keys(&columns).unwrap(), Timestamp(100)).await.unwrap();
    assert_eq!(values(&lookup, &answer, 1), [Value::I64(11), Value::I64(22)]);
    assert_eq!(values(&lookup, &answer, 2), [Value::I64(333), Value::Null]);
    assert_eq!(values(&lookup, &answer, 3), [Value::I64(22), Value::I64(11)]);
}

#[tokio::test]
async fn rows_of_older_layouts_are_read_by_field_id() {
    let world = World::new();
    let old = world.layouts.insert(Layout::new(vec![(2, DataType::Scalar(Scalar::I32))]).unwrap()).unwrap();
    world.put(Generation(1), &old, 1, at(100), &[Value::I32(-4)]).await;
    world.put_weather(2, 100, &[Value::F64(0.5), Value::I64(5)]).await;
    let lookup = world.features(&["weather"]);
    let answer = world.run(&lookup, &ints(&[1, 2, 1]), 100).await.unwrap();
    assert_eq!(statuses(&answer, 0), ["NULL_VALUE", "PRESENT", "NULL_VALUE"]);
    assert_eq!(values(&lookup, &answer, 1), [-4, 5, -4].map(Value::I64));
}

#[tokio::test]
async fn a_row_of_a_layout_that_is_not_known_here_asks_to_load_definitions_again() {
    let world = World::new();
    let newer = Layout::new(vec![(1, F64), (2, I64), (3, I64)]).unwrap();
    world.put(Generation(1), &newer, 1, at(100), &[Value::F64(0.5), Value::I64(5), Value::I64(6)]).await;
    let lookup = world.features(&["weather:wind"]);
    let error = world.run(&lookup, &ints(&[1]), 100).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains(&format!("{:016x}", newer.fingerprint())), "{error}");
    world.layouts.insert(newer).unwrap();
    let answer = world.run(&lookup, &ints(&[1]), 100).await.unwrap();
    assert_eq!(values(&lookup, &answer, 0), [Value::I64(5)]);
}

#[tokio::test]
async fn integers_that_no_key_can_be_are_not_found() {
    let world = World::new();
    world.put_weather(1, 100, &[Value::F64(0.5), Value::I64(7)]).await;
    let lookup = world.features(&["weather:wind"]);
    let column = column_of(I64, &[Value::I64(1 << 40), Value::I64(1)]).unwrap();
    let answer = lookup.run(&world.store, &lookup.keys(&[column]).unwrap(), Timestamp(100)).await.unwrap();
    assert_eq!(statuses(&answer, 0), ["NOT_FOUND", "PRESENT"]);
}

#[tokio::test]
async fn wrong_key_columns_are_refused_by_name() {
    let world = World::new();
    let lookup = world.lookup(&Selection::Service("routes".into())).unwrap();
    let ints = column_of(I64, &[Value::I64(1)]).unwrap();
    let texts = column_of(DataType::Scalar(Scalar::String), &[Value::String("JFK".into())]).unwrap();
    let long = column_of(I64, &vec![Value::I64(1); MAX_LOOKUP_ROWS + 1]).unwrap();
    for columns in [vec![Arc::clone(&ints)], vec![Arc::clone(&ints), texts], vec![ints, Arc::clone(&long)]] {
        let error = lookup.keys(&columns).unwrap_err();
        assert!(error.kind() == ErrorKind::InvalidArgument && error.to_string().contains("\"dest\""), "{error}");
    }
    assert_eq!(lookup.keys(&[Arc::clone(&long), long]).unwrap_err().kind(), ErrorKind::Exhausted);
    let error = lookup.keys_of_values(&[vec![Value::I64(1)], vec![Value::Bool(true)]]).unwrap_err();
    assert!(error.to_string().contains("\"dest\": row 0: expected i32"), "{error}");
    assert!(lookup.keys_of_values(&[vec![Value::I64(1)]]).unwrap_err().to_string().contains("\"dest\""));
}

#[test]
fn one_column_cannot_be_two_types_of_key() {
    let world = World::new();
    let mut views = Selection::Features(vec!["weather".into(), "crew".into()]).resolve(&definitions(), &[], false).unwrap();
    views[1].key_columns = vec!["airport_id".into()];
    let target = |view: SelectedView| {
        let (generation, layout) = world.layout(view.layout.name());
        Target { view, generation, layout }
    };
    let error = Lookup::new(views.into_iter().map(target).collect(), Arc::clone(&world.layouts)).unwrap_err();
    assert!(error.to_string().contains("\"airport_id\"") && error.to_string().contains("\"crew\""), "{error}");
}

#[tokio::test]
async fn a_lookup_of_no_rows_is_empty_columns() {
    let world = World::new();
    let lookup = world.features(&["weather"]);
    let answer = world.run(&lookup, &[], 0).await.unwrap();
    assert_eq!((answer.rows, values(&lookup, &answer, 0)), (0, vec![]));
}

#[tokio::test]
async fn a_schema_is_named_by_its_columns_alone() {
    let world = World::new();
    let id = |features: &[&str]| world.features(features).schema_id();
    assert_eq!(id(&["weather"]), id(&["weather:temp", "weather:wind"]));
    let others = [id(&["weather"]), id(&["weather:wind", "weather:temp"]), id(&["weather:temp"]), id(&["traffic"]), id(&["weather", "traffic"])];
    for (place, one) in others.iter().enumerate() {
        assert!(*one != 0 && !others[..place].contains(one));
    }
}
