use std::sync::Arc;

use anabranch_core::{ErrorKind, Kinded, ManualClock};
use anabranch_versioning::RealFiles;
use anabranch_versioning::testkit::LossyFiles;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

struct Fixture {
    folder: TempDir,
    files: Arc<dyn Files>,
    clock: Arc<ManualClock>,
    options: WalOptions,
}

impl Fixture {
    fn new(files: Arc<dyn Files>) -> Self {
        let options = WalOptions { segment_bytes: 4096, ..WalOptions::default() };
        Self { folder: tempfile::tempdir().unwrap(), files, clock: Arc::new(ManualClock::new(Timestamp(1_000_000_000))), options }
    }

    fn real() -> Self {
        Self::new(Arc::new(RealFiles))
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn open(&self) -> Result<Wal> {
        let clock: Arc<dyn Clock> = self.clock.clone();
        Wal::open(Arc::clone(&self.files), &self.path(), source(), clock, self.options.clone())
    }

    fn segments(&self) -> Vec<PathBuf> {
        let mut paths: Vec<_> = std::fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    }
}

fn source() -> SourceId {
    SourceId::new(7).unwrap()
}

fn push(rows: u32, payload: impl Into<Bytes>) -> NewRecord {
    NewRecord { view: "weather".to_owned(), kind: RecordKind::Rows, format: PayloadFormat::Json, rows, key: None, payload: payload.into() }
}

fn keyed(key: &'static str, payload: &'static str) -> NewRecord {
    NewRecord { key: Some(Bytes::from_static(key.as_bytes())), ..push(1, payload) }
}

fn all(wal: &Wal) -> Vec<LogRecord> {
    wal.read_from(wal.first()).unwrap().read(u64::MAX, usize::MAX).unwrap()
}

fn payloads(wal: &Wal) -> Vec<Bytes> {
    all(wal).into_iter().map(|record| record.push.payload).collect()
}

#[test]
fn the_bytes_of_a_segment_are_as_recorded() {
    let header = format::Header { source: source(), first: 258, arrival_floor: Timestamp(-2) };
    let mut bytes = header.to_bytes().to_vec();
    let record = NewRecord { key: Some(Bytes::from_static(b"k-1")), ..push(2, r#"[{"a":1},{"a":2}]"#) };
    format::encode(&mut bytes, &record, 258, Timestamp(5), 36);
    let tombstone = NewRecord { kind: RecordKind::Tombstones, format: PayloadFormat::Arrow, ..push(1, vec![0xff, 0]) };
    format::encode(&mut bytes, &tombstone, 260, Timestamp(6), 36);
    let hex: String = bytes.chunks(32).map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n").collect();
    assert_eq!(hex, include_str!("../../tests/golden/wal-1.txt"));
    assert_eq!(format::Header::from_bytes(&bytes).unwrap(), header);
    assert_eq!(format::decode(&Bytes::from(bytes).slice(36..)).unwrap().record.push, record);
}

#[tokio::test]
async fn appended_records_come_back_in_order_across_segments_and_restarts() {
    let fixture = Fixture::real();
    let wal = fixture.open().unwrap();
    let mut next = 0;
    for i in 0..50u32 {
        let appended = wal.append(push(i % 3 + 1, vec![b'x'; 400])).await.unwrap();
        assert_eq!(appended.first.get(), next);
        next = appended.next();
    }
    assert!(fixture.segments().len() > 3);
    let before = all(&wal);
    assert_eq!(before.len(), 50);
    wal.close().await;
    assert_eq!(wal.append(push(1, "{}")).await.unwrap_err().kind(), ErrorKind::Unavailable);
    let wal = fixture.open().unwrap();
    assert_eq!(all(&wal), before);
    assert_eq!(wal.end().borrow().next, next);
    let mut reader = wal.read_from(before[20].first.get()).unwrap();
    assert_eq!(reader.read(1, usize::MAX).unwrap(), before[20..21]);
    assert_eq!(reader.read(u64::MAX, usize::MAX).unwrap(), before[21..]);
    assert!(reader.read(u64::MAX, usize::MAX).unwrap().is_empty());
    wal.append(push(1, "late")).await.unwrap();
    assert_eq!(reader.read(u64::MAX, usize::MAX).unwrap().len(), 1);
    // The second record takes the positions 1 and 2.
    assert!(matches!(wal.read_from(2).unwrap_err(), Error::NotInLog { .. }));
    assert!(matches!(wal.read_from(next + 2).unwrap_err(), Error::NotInLog { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_appends_share_syncs_and_never_a_position() {
    let fixture = Fixture::real();
    let wal = fixture.open().unwrap();
    let tasks: Vec<_> = (0..200u32)
        .map(|i| {
            let wal = wal.clone();
            tokio::spawn(async move { wal.append(push(i % 5 + 1, i.to_string())).await.unwrap() })
        })
        .collect();
    let mut ranges = Vec::new();
    for task in tasks {
        let appended = task.await.unwrap();
        ranges.push((appended.first.get(), appended.next()));
    }
    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|pair| pair[0].1 == pair[1].0));
    assert_eq!(all(&wal).len(), 200);
}

#[tokio::test]
async fn arrivals_never_decrease_though_the_clock_does() {
    let fixture = Fixture { options: WalOptions { key_window: Span(0), segment_bytes: 4096, ..WalOptions::default() }, ..Fixture::real() };
    let wal = fixture.open().unwrap();
    let first = wal.append(push(1, vec![b'x'; 5000])).await.unwrap();
    fixture.clock.set(Timestamp(5));
    let second = wal.append(push(1, "b")).await.unwrap();
    assert_eq!(second.arrival, first.arrival);
    wal.truncate_before(second.first.get()).await.unwrap();
    assert_eq!(fixture.segments().len(), 1);
    wal.close().await;
    let wal = fixture.open().unwrap();
    assert_eq!(wal.append(push(1, "c")).await.unwrap().arrival, first.arrival);
    assert_eq!(wal.first(), second.first.get());
}

#[tokio::test]
async fn deleting_keeps_what_is_not_committed_and_what_keys_still_need() {
    let fixture = Fixture::real();
    let wal = fixture.open().unwrap();
    let big = vec![b'x'; 5000];
    for _ in 0..3 {
        wal.append(push(10, big.clone())).await.unwrap();
    }
    wal.append(NewRecord { key: Some(Bytes::from_static(b"k")), ..push(10, big.clone()) }).await.unwrap();
    wal.append(push(10, big)).await.unwrap();
    wal.truncate_before(25).await.unwrap();
    assert_eq!(wal.first(), 20);
    wal.truncate_before(50).await.unwrap();
    assert_eq!(wal.first(), 30, "the segment of the key is kept for its window");
    assert!(matches!(wal.read_from(0).unwrap_err(), Error::NotInLog { .. }));
    fixture.clock.advance(Span::seconds(601));
    wal.truncate_before(50).await.unwrap();
    assert_eq!(wal.first(), 40, "the last segment is always kept");
}

#[tokio::test]
async fn a_repeated_key_is_answered_with_the_first_push_also_after_a_restart() {
    let fixture = Fixture::real();
    let wal = fixture.open().unwrap();
    let first = wal.append(keyed("a", "{}")).await.unwrap();
    let again = wal.append(keyed("a", "{}")).await.unwrap();
    assert_eq!(again, Appended { duplicate: true, ..first });
    let (x, y) = tokio::join!(wal.append(keyed("b", "{}")), wal.append(keyed("b", "{}")));
    assert_eq!(x.unwrap().first, y.unwrap().first);
    wal.close().await;
    let wal = fixture.open().unwrap();
    assert_eq!(wal.append(keyed("a", "{}")).await.unwrap(), again);
    assert_eq!(wal.append(keyed("a", "{\"other\":1}")).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(all(&wal).len(), 2);
}

#[tokio::test]
async fn only_so_many_keys_are_remembered() {
    let fixture = Fixture { options: WalOptions { key_limit: 2, ..WalOptions::default() }, ..Fixture::real() };
    let wal = fixture.open().unwrap();
    for key in ["a", "b", "c"] {
        wal.append(keyed(key, "{}")).await.unwrap();
    }
    assert!(wal.append(keyed("c", "{}")).await.unwrap().duplicate);
    assert!(!wal.append(keyed("a", "{}")).await.unwrap().duplicate);
}

#[tokio::test]
async fn a_push_that_no_log_takes_is_refused_and_leaves_nothing() {
    let fixture = Fixture { options: WalOptions { max_push_bytes: 100, ..WalOptions::default() }, ..Fixture::real() };
    let wal = fixture.open().unwrap();
    assert_eq!(wal.append(push(1, vec![0; 101])).await.unwrap_err().kind(), ErrorKind::Exhausted);
    for bad in [
        push(0, "{}"),
        NewRecord { view: String::new(), ..push(1, "{}") },
        NewRecord { view: "x".repeat(256), ..push(1, "{}") },
        NewRecord { key: Some(Bytes::from(vec![b'k'; 257])), ..push(1, "{}") },
        NewRecord { key: Some(Bytes::new()), ..push(1, "{}") },
    ] {
        assert_eq!(wal.append(bad).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
    assert!(all(&wal).is_empty());
}

#[tokio::test]
async fn a_full_disk_fails_the_append_and_the_log_stays_usable() {
    let lossy = LossyFiles::default();
    let fixture = Fixture::new(Arc::new(lossy.clone()));
    let wal = fixture.open().unwrap();
    wal.append(push(1, "before")).await.unwrap();
    lossy.set_full(true);
    assert_eq!(wal.append(push(1, "during")).await.unwrap_err().kind(), ErrorKind::Exhausted);
    // A new segment cannot be begun either.
    wal.append(push(1, vec![b'x'; 5000])).await.unwrap_err();
    lossy.set_full(false);
    let after = wal.append(push(1, vec![b'y'; 5000])).await.unwrap();
    assert_eq!(after.first.get(), 1);
    lossy.set_full(true);
    assert_eq!(wal.append(push(1, "rolls")).await.unwrap_err().kind(), ErrorKind::Exhausted);
    lossy.set_full(false);
    wal.append(push(1, "rolls")).await.unwrap();
    assert_eq!(payloads(&wal).len(), 3);
    wal.close().await;
    assert_eq!(payloads(&fixture.open().unwrap()).len(), 3);
}

/// A file layer that writes half of what it is given before it fails, as a disk that fills up does.
#[derive(Debug)]
struct HalfFull(std::sync::atomic::AtomicBool);

#[derive(Debug)]
struct HalfHandle(Arc<HalfFull>, Box<dyn anabranch_versioning::FileHandle>);

impl anabranch_versioning::FileHandle for HalfHandle {
    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if self.0.0.load(std::sync::atomic::Ordering::SeqCst) {
            self.1.write_all(&bytes[..bytes.len() / 2])?;
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.1.write_all(bytes)
    }

    fn sync(&mut self) -> std::io::Result<()> {
        self.1.sync()
    }
}

#[derive(Debug)]
struct HalfFiles(Arc<HalfFull>);

macro_rules! forward {
    ($($name:ident($($arg:ident: $type:ty),*) -> $out:ty;)*) => {
        $(fn $name(&self, $($arg: $type),*) -> std::io::Result<$out> { RealFiles.$name($($arg),*) })*
    };
}

impl Files for HalfFiles {
    fn create_new(&self, path: &Path) -> std::io::Result<Box<dyn anabranch_versioning::FileHandle>> {
        Ok(Box::new(HalfHandle(self.0.clone(), RealFiles.create_new(path)?)))
    }
    fn append(&self, path: &Path) -> std::io::Result<Box<dyn anabranch_versioning::FileHandle>> {
        Ok(Box::new(HalfHandle(self.0.clone(), RealFiles.append(path)?)))
    }
    forward! {
        read(path: &Path) -> Vec<u8>;
        read_at(path: &Path, offset: u64, len: usize) -> Vec<u8>;
        len(path: &Path) -> u64;
        truncate(path: &Path, len: u64) -> ();
        rename(from: &Path, to: &Path) -> ();
        link(from: &Path, to: &Path) -> ();
        remove(path: &Path) -> ();
        list(dir: &Path) -> Vec<String>;
        create_dir_all(dir: &Path) -> ();
        sync_dir(dir: &Path) -> ();
        exists(path: &Path) -> bool;
    }
}

#[tokio::test]
async fn partial_bytes_of_a_failed_append_are_cut_off() {
    let half = Arc::new(HalfFull(std::sync::atomic::AtomicBool::new(false)));
    let fixture = Fixture::new(Arc::new(HalfFiles(half.clone())));
    let wal = fixture.open().unwrap();
    wal.append(push(1, "before")).await.unwrap();
    let len = std::fs::metadata(&fixture.segments()[0]).unwrap().len();
    half.0.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(wal.append(push(1, "during")).await.unwrap_err().kind(), ErrorKind::Exhausted);
    assert_eq!(std::fs::metadata(&fixture.segments()[0]).unwrap().len(), len);
    half.0.store(false, std::sync::atomic::Ordering::SeqCst);
    wal.append(push(1, "after")).await.unwrap();
    wal.close().await;
    assert_eq!(payloads(&fixture.open().unwrap()), ["before", "after"]);
}

/// Appends until the power goes; answers what was acknowledged and how many appends were tried.
async fn work(fixture: &Fixture, tag: u32) -> (Vec<Bytes>, Vec<Bytes>) {
    let (mut acknowledged, mut tried) = (Vec::new(), Vec::new());
    let Ok(wal) = fixture.open() else { return (acknowledged, tried) };
    for i in 0..6u32 {
        let payload = Bytes::from(format!("{tag}-{i}-{}", "x".repeat(1500)));
        tried.push(payload.clone());
        if wal.append(push(2, payload.clone())).await.is_ok() {
            acknowledged.push(payload);
        }
        if i == 4 {
            let _ = wal.truncate_before(6).await;
        }
    }
    wal.close().await;
    (acknowledged, tried)
}

#[tokio::test]
async fn what_was_acknowledged_survives_loss_of_power_at_every_operation() {
    for torn in [0, 1, 2] {
        let mut cut = 0;
        loop {
            let lossy = LossyFiles::default();
            let fixture = Fixture::new(Arc::new(lossy.clone()));
            lossy.cut_power_after(cut);
            let (acknowledged, tried) = work(&fixture, 1).await;
            let done = acknowledged.len() == 6 && lossy.operations() < cut;
            lossy.lose_power_keeping(|tail| tail * torn / 2).unwrap();
            let wal = fixture.open().unwrap();
            let kept = payloads(&wal);
            // The first segments may have been deleted: they were consumed.
            let from = usize::try_from(wal.first()).unwrap() / 2;
            assert!(from <= 3, "only consumed rows are deleted");
            let whole: Vec<_> = tried[..from].iter().chain(&kept).cloned().collect();
            assert!(tried.starts_with(&whole), "cut {cut}, torn {torn}: what is there is a prefix");
            assert!(whole.starts_with(&acknowledged), "cut {cut}, torn {torn}: what was acknowledged is there");
            // The log goes on, and once more through a loss of power.
            wal.append(push(1, "again")).await.unwrap();
            wal.close().await;
            lossy.lose_power().unwrap();
            assert_eq!(payloads(&fixture.open().unwrap()).last().unwrap(), "again");
            if done {
                break;
            }
            cut += 1;
        }
        assert!(cut > 15, "the cuts reached into the work");
    }
}

#[tokio::test]
async fn a_record_of_a_killed_process_is_synced_before_it_is_trusted() {
    let lossy = LossyFiles::default();
    let fixture = Fixture::new(Arc::new(lossy.clone()));
    let wal = fixture.open().unwrap();
    wal.append(push(1, "synced")).await.unwrap();
    wal.close().await;
    // Written and not synced: as a process leaves it that is killed between the two.
    let segment = fixture.segments()[0].clone();
    let mut bytes = Vec::new();
    let len = std::fs::metadata(&segment).unwrap().len();
    format::encode(&mut bytes, &push(1, "cached"), 1, Timestamp(2_000_000_000), len);
    lossy.append(&segment).unwrap().write_all(&bytes).unwrap();
    let wal = fixture.open().unwrap();
    assert_eq!(payloads(&wal), ["synced", "cached"]);
    lossy.lose_power().unwrap();
    drop(wal);
    assert_eq!(payloads(&fixture.open().unwrap()), ["synced", "cached"]);
}

#[tokio::test]
async fn damage_to_what_was_acknowledged_is_told_with_its_place_and_never_skipped() {
    let fixture = Fixture { options: WalOptions::default(), ..Fixture::real() };
    let wal = fixture.open().unwrap();
    for payload in ["one", "two", "three"] {
        wal.append(push(1, payload)).await.unwrap();
    }
    wal.close().await;
    let segment = fixture.segments()[0].clone();
    let good = std::fs::read(&segment).unwrap();
    let second = 36 + 8 + 33 + "weather".len() + "one".len();
    let mut bad = good.clone();
    bad[second + 50] ^= 1;
    std::fs::write(&segment, &bad).unwrap();
    match fixture.open().unwrap_err() {
        Error::LogDamaged { segment: named, offset, .. } => assert_eq!((named, offset), (segment.display().to_string(), second as u64)),
        other => panic!("{other}"),
    }
    // The same at the very end is a torn write.
    let mut torn = good.clone();
    *torn.last_mut().unwrap() ^= 1;
    std::fs::write(&segment, &torn).unwrap();
    let wal = fixture.open().unwrap();
    assert_eq!(payloads(&wal), ["one", "two"]);
    wal.close().await;
    // And a header of a newer version, another source's log or a lost header are told apart.
    let mut newer = good.clone();
    newer[9] = 2;
    let crc = crc32fast::hash(&newer[..32]);
    newer[32..36].copy_from_slice(&crc.to_be_bytes());
    std::fs::write(&segment, &newer).unwrap();
    assert!(matches!(fixture.open().unwrap_err(), Error::LogNewer { found: 2, .. }));
    std::fs::write(&segment, &good).unwrap();
    let other = SourceId::new(8).unwrap();
    let foreign = Wal::open(Arc::new(RealFiles), &fixture.path(), other, fixture.clock.clone(), WalOptions::default());
    assert!(matches!(foreign.unwrap_err(), Error::LogForeign { .. }));
    assert_eq!(Wal::source_of(&RealFiles, &fixture.path()).unwrap(), Some(source()));
    std::fs::write(&segment, &good[1..]).unwrap();
    assert!(matches!(fixture.open().unwrap_err(), Error::LogDamaged { offset: 0, .. }));
}

#[tokio::test]
async fn a_missing_segment_in_the_middle_is_damage() {
    let fixture = Fixture::real();
    let wal = fixture.open().unwrap();
    for _ in 0..3 {
        wal.append(push(1, vec![b'x'; 5000])).await.unwrap();
    }
    wal.close().await;
    std::fs::remove_file(&fixture.segments()[1]).unwrap();
    assert!(matches!(fixture.open().unwrap_err(), Error::LogDamaged { .. }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_torn_tail_leaves_a_prefix_and_the_log_goes_on(sizes in proptest::collection::vec(1usize..600, 1..8), cut in 0usize..4000, garbage in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let fixture = Fixture { options: WalOptions::default(), ..Fixture::real() };
            let wal = fixture.open().unwrap();
            let (mut tried, mut ends) = (Vec::new(), vec![36u64]);
            for (i, size) in sizes.iter().enumerate() {
                let payload = Bytes::from(vec![i as u8 + 1; *size]);
                wal.append(push(1, payload.clone())).await.unwrap();
                tried.push(payload);
                ends.push(std::fs::metadata(&fixture.segments()[0]).unwrap().len());
            }
            wal.close().await;
            let segment = fixture.segments()[0].clone();
            let bytes = std::fs::read(&segment).unwrap();
            // Tear within the last record, as a crash does.
            let (from, to) = (ends[ends.len() - 2] as usize, bytes.len());
            let keep = from + cut % (to - from);
            let mut torn = bytes[..keep].to_vec();
            if garbage {
                torn.resize(to, 0);
            }
            std::fs::write(&segment, &torn).unwrap();
            let wal = fixture.open().unwrap();
            prop_assert_eq!(payloads(&wal), &tried[..tried.len() - 1]);
            wal.append(push(1, "next")).await.unwrap();
            wal.close().await;
            prop_assert_eq!(payloads(&fixture.open().unwrap()).len(), tried.len());
            Ok(())
        })?;
    }

    #[test]
    fn any_bytes_of_a_record_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        let _ = format::decode(&Bytes::from(bytes.clone()));
        let _ = format::Header::from_bytes(&bytes);
    }
}
