use proptest::prelude::*;

use super::*;

fn interval(source: u32, first: u64, last: u64) -> Interval {
    Interval { source: SourceId::new(source).unwrap(), first: Position::new(first).unwrap(), last: Position::new(last).unwrap() }
}

fn table() -> TableEntry {
    TableEntry { uuid: Uuid::from_u128(0xA1), metadata: Digest([7; 32]), current_snapshot: Some(42), last_sequence_number: 3 }
}

fn snapshot() -> SnapshotEntry {
    SnapshotEntry {
        parent: Some(41),
        sequence_number: 3,
        time_ms: 1_700_000_000_000,
        schema_id: 1,
        manifest_list: "metadata/x/snap-42.avro".to_owned(),
        summary: BTreeMap::from([("added-records".to_owned(), "2".to_owned()), ("operation".to_owned(), "append".to_owned())]),
        files: vec![
            AddedFile { name: "a.parquet".to_owned(), rows: 2, intervals: vec![interval(1, 0, 1), interval(2, 5, 5)], fill: None },
            AddedFile {
                name: "b.parquet".to_owned(),
                rows: 1,
                intervals: vec![],
                fill: Some(Fill { arrival: Timestamp(-1), source: SourceId::new(9).unwrap(), first_position: Position::new(4).unwrap() }),
            },
        ],
    }
}

#[test]
fn entry_bytes_are_the_golden_ones() {
    let (table_bytes, snapshot_bytes) = (include_bytes!("../../tests/golden/table_entry.v1"), include_bytes!("../../tests/golden/snapshot_entry.v1"));
    assert_eq!(table().encode(), table_bytes[..]);
    assert_eq!(TableEntry::decode(table_bytes).unwrap(), table());
    assert_eq!(snapshot().encode(), snapshot_bytes[..]);
    assert_eq!(SnapshotEntry::decode(snapshot_bytes).unwrap(), snapshot());
}

#[test]
fn cut_longer_or_newer_bytes_are_refused() {
    let (table, snapshot) = (table().encode(), snapshot().encode());
    for len in 0..table.len() {
        assert!(TableEntry::decode(&table[..len]).is_err());
    }
    for len in 0..snapshot.len() {
        assert!(SnapshotEntry::decode(&snapshot[..len]).is_err());
    }
    assert!(TableEntry::decode(&[&table[..], &[0]].concat()).is_err());
    assert!(SnapshotEntry::decode(&[&snapshot[..], &[0]].concat()).is_err());
    let mut newer = table.to_vec();
    newer[1] = 2;
    assert!(TableEntry::decode(&newer).unwrap_err().to_string().contains("format version 2"));
    assert!(TableEntry::decode(&snapshot).is_err());
}

#[test]
fn intervals_that_touch_or_overlap_become_one() {
    let merged = Interval::merged(vec![interval(2, 0, 3), interval(1, 5, 9), interval(1, 0, 4), interval(1, 7, 8), interval(1, 11, 11)]);
    assert_eq!(merged, [interval(1, 0, 9), interval(1, 11, 11), interval(2, 0, 3)]);
    assert!(interval(1, 0, 4).overlaps(&interval(1, 4, 5)) && !interval(1, 0, 4).overlaps(&interval(2, 0, 4)));
}

proptest! {
    #[test]
    fn any_bytes_decode_or_are_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
        if bytes.len() > 1 {
            bytes[0] = b'S';
            bytes[1] = VERSION;
        }
        if let Ok(entry) = SnapshotEntry::decode(&bytes) {
            prop_assert_eq!(entry.encode(), bytes);
        }
    }

    #[test]
    fn merged_intervals_hold_exactly_the_same_positions(raw in proptest::collection::vec((0..3u32, 0..30u64, 0..6u64), 0..12)) {
        let intervals: Vec<_> = raw.iter().map(|(source, first, len)| interval(*source, *first, first + len)).collect();
        let merged = Interval::merged(intervals.clone());
        for source in 0..3 {
            for position in 0..40 {
                let point = interval(source, position, position);
                prop_assert_eq!(intervals.iter().any(|i| i.overlaps(&point)), merged.iter().any(|i| i.overlaps(&point)));
            }
        }
        for pair in merged.windows(2) {
            prop_assert!(pair[0].source != pair[1].source || pair[0].last.get() + 1 < pair[1].first.get());
        }
    }
}
