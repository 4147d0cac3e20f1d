//! Point reads, scans and diffs.

use anabranch_versioning::{CommitId, MapReader as _, Scan};
use anyhow::ensure;

use super::setup::{Bench, key};
use crate::report::{Report, median_s, now, say};

const POINTS: u64 = 200_000;
const SCANNED: usize = 2_000_000;
const CHANGED: u64 = 1_000;
const DIFFS: usize = 9;

/// Reads of single keys at the head, one after the other, after one pass that warms the cache.
pub(super) async fn points(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let head = bench.head("main").await?;
    let mut wall = 0.0;
    for _ in 0..2 {
        let mut rng = bench.rng(4);
        let keys = (0..POINTS).map(|_| key(bench.any_key(&mut rng))).collect::<anyhow::Result<Vec<_>>>()?;
        let start = now();
        for key in &keys {
            ensure!(bench.repository.get(&head, key).await?.is_some(), "{key} is missing");
        }
        wall = start.elapsed().as_secs_f64();
    }
    report.figure("point_read_per_s", POINTS as f64 / wall);
    Ok(())
}

/// Pages of the largest size from the first key on.
pub(super) async fn scan(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let view = bench.repository.at(&bench.head("main").await?).await?;
    let (mut scan, mut count) = (Scan::all(), 0);
    let start = now();
    loop {
        let page = view.scan(&scan).await?;
        count += page.items.len();
        scan.after = page.next;
        if scan.after.is_none() || count >= SCANNED {
            break;
        }
    }
    ensure!(count as u64 >= bench.options.keys.min(SCANNED as u64), "the scan ended after {count} keys");
    report.figure("scan_keys_per_s", count as f64 / start.elapsed().as_secs_f64());
    Ok(())
}

/// A commit of a thousand keys anywhere against its parent: warm, and in a repository that was just opened.
pub(super) async fn diffs(bench: &mut Bench, report: &mut Report) -> anyhow::Result<()> {
    let mut rng = bench.rng(5);
    let left = bench.head("main").await?;
    let count = CHANGED.min(bench.options.keys);
    let mut numbers = std::collections::BTreeSet::new();
    while (numbers.len() as u64) < count {
        numbers.insert(bench.any_key(&mut rng));
    }
    let right = bench.put("main", numbers.into_iter(), &mut rng).await?;
    let mut cold = Vec::new();
    for _ in 0..3 {
        bench.reopen().await?;
        cold.push(diff(bench, left, right, count).await?);
    }
    let mut warm = Vec::new();
    for _ in 0..DIFFS {
        warm.push(diff(bench, left, right, count).await?);
    }
    report.figure("diff_1k_warm_ms", median_s(&mut warm) * 1e3);
    report.figure("diff_1k_cold_ms", median_s(&mut cold) * 1e3);
    say("diffs done");
    Ok(())
}

async fn diff(bench: &Bench, left: CommitId, right: CommitId, count: u64) -> anyhow::Result<std::time::Duration> {
    let start = now();
    let page = bench.repository.diff(&left, &right, &Scan::all()).await?;
    let took = start.elapsed();
    ensure!(page.items.len() as u64 == count && page.next.is_none(), "the diff has {} keys, not {count}", page.items.len());
    Ok(took)
}
