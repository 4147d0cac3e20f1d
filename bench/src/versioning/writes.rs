//! Branches, commits and merges.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anabranch_versioning::{Change, CommitRequest, MergeRequest, RefSpec};
use futures::StreamExt as _;

use super::setup::{Bench, directory_bytes, key, written_bytes};
use crate::report::{Report, median_s, now, percentile_us, say};

/// Branches made at the head by many callers at once, each durable when its call returns.
pub(super) async fn branches(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let (count, callers) = (bench.options.branches, bench.options.branch_callers);
    let main = RefSpec::branch("main");
    let start = now();
    let took: Vec<anyhow::Result<u64>> = futures::stream::iter(0..count)
        .map(|number| {
            let (repository, main) = (bench.repository.clone(), main.clone());
            async move {
                let start = now();
                repository.create_branch(&format!("experiment/{number:06}"), &main, "bench").await?;
                Ok(start.elapsed().as_micros() as u64)
            }
        })
        .buffer_unordered(callers)
        .collect()
        .await;
    let wall = start.elapsed().as_secs_f64();
    let mut took = took.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    took.sort_unstable();
    report.figure("branch_create_per_s", count as f64 / wall);
    report.figure("branch_create_p50_ms", percentile_us(&took, 50.0) / 1e3);
    report.figure("branch_create_p99_ms", percentile_us(&took, 99.0) / 1e3);
    say(&format!("{count} branches in {wall:.2} s"));
    Ok(())
}

/// Commits of one key, one after the other.
pub(super) async fn small_commits(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let mut rng = bench.rng(1);
    let (packs, written) = (directory_bytes(&bench.packs()), written_bytes());
    let mut took = Vec::new();
    for _ in 0..bench.options.small_commits {
        let number = bench.any_key(&mut rng);
        let start = now();
        bench.put("main", std::iter::once(number), &mut rng).await?;
        took.push(start.elapsed());
    }
    let count = took.len() as f64;
    report.figure("commit_1_key_p50_ms", median_s(&mut took) * 1e3);
    report.figure("commit_1_key_pack_bytes", (directory_bytes(&bench.packs()) - packs) as f64 / count);
    report.figure("commit_1_key_bytes_written", (written_bytes() - written) / count);
    Ok(())
}

/// Many writers on one branch, each committing one key after the other.
pub(super) async fn many_writers(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let (count, deadline) = (Arc::new(AtomicU64::new(0)), Duration::from_secs_f64(bench.options.write_seconds));
    let start = now();
    let writers = (0..bench.options.writers).map(|writer| {
        let count = count.clone();
        async move {
            let mut rng = bench.rng(1_000 + writer as u64);
            while start.elapsed() < deadline {
                let number = bench.any_key(&mut rng);
                bench.put("main", std::iter::once(number), &mut rng).await?;
                count.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        }
    });
    futures::future::try_join_all(writers).await?;
    report.figure("commits_per_s_one_branch", count.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64());
    Ok(())
}

/// Branches that each changed a key of their own, merged into one branch at once.
pub(super) async fn merges(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let repository = &bench.repository;
    repository.create_branch("trunk", &RefSpec::branch("main"), "bench").await?;
    let mut rng = bench.rng(2);
    let mut keys = BTreeSet::new();
    while keys.len() < bench.options.merges.min(bench.options.keys as usize) {
        keys.insert(bench.any_key(&mut rng));
    }
    let names: Vec<_> = (0..keys.len()).map(|number| format!("side/{number}")).collect();
    let side = |(name, number): (String, u64)| async move {
        bench.repository.create_branch(&name, &RefSpec::branch("main"), "bench").await?;
        let change = Change::put(key(number)?, name.clone());
        bench.repository.commit(&name, CommitRequest::new("bench", "change", vec![change])).await?;
        anyhow::Ok(())
    };
    let sides = futures::stream::iter(names.iter().cloned().zip(keys)).map(side).buffer_unordered(64).collect::<Vec<_>>().await;
    sides.into_iter().collect::<anyhow::Result<()>>()?;
    let failures = AtomicUsize::new(0);
    let start = now();
    let merge = |name: &String| {
        let request = MergeRequest::new(RefSpec::branch(name.clone()), "bench");
        let failures = &failures;
        async move {
            if let Err(error) = repository.merge("trunk", request).await {
                say(&format!("a merge failed: {error}"));
                failures.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    futures::future::join_all(names.iter().map(merge)).await;
    report.figure("contended_merges_per_s", names.len() as f64 / start.elapsed().as_secs_f64());
    report.figure("contended_failures", failures.load(Ordering::Relaxed) as f64);
    Ok(())
}

/// One commit of many keys: side by side, or anywhere.
pub(super) async fn large_commit(bench: &Bench, report: &mut Report, kind: &str) -> anyhow::Result<()> {
    let mut rng = bench.rng(3);
    let count = bench.options.large_commit.min(bench.options.keys);
    let numbers: BTreeSet<u64> = match kind {
        "clustered" => {
            let first = (bench.options.keys - count) / 2;
            (first..first + count).collect()
        }
        _ => (0..count).map(|_| bench.any_key(&mut rng)).collect(),
    };
    // The values are made before the clock starts.
    let changes: anyhow::Result<Vec<_>> = numbers.iter().map(|number| Ok(Change::put(key(*number)?, bench.value(&mut rng)))).collect();
    let request = CommitRequest::new("bench", kind, changes?);
    let start = now();
    bench.repository.commit("main", request).await?;
    report.figure(&format!("commit_500k_{kind}_s"), start.elapsed().as_secs_f64());
    say(&format!("{} {kind} keys in {:.2} s", numbers.len(), start.elapsed().as_secs_f64()));
    Ok(())
}
