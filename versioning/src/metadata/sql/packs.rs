//! The index of packs: which pack holds which node or commit. `packs.entries` counts the rows of `pack_index` that name a pack.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::super::check_count;
use super::{Arg, Connection};
use crate::{IndexEntry, PackId, PackIndex, Result};

const INSERT: &str = "INSERT INTO pack_index (hash, kind, pack, \"offset\", len)";

fn row(id: i64, entry: &IndexEntry) -> Vec<Arg<'_>> {
    vec![Arg::Blob(&entry.hash), Arg::Int(entry.kind as i64), Arg::Int(id), Arg::Int(entry.offset as i64), Arg::Int(entry.len.into())]
}

/// The number of a pack, which is counted as having this many entries more.
async fn add(db: &mut dyn Connection, pack: &PackIndex, entries: u64) -> Result<i64> {
    let sql = "INSERT INTO packs (hash, bytes, entries) VALUES ($1, $2, $3) \
               ON CONFLICT (hash) DO UPDATE SET bytes = excluded.bytes, entries = packs.entries + excluded.entries RETURNING id";
    let args = [Arg::Blob(&pack.pack.0), Arg::Int(check_count(Some(pack.bytes))?), Arg::Int(check_count(Some(entries))?)];
    let row = db.fetch_one(sql, &args).await?.ok_or_else(|| super::damaged("a pack was not written"))?;
    row.int(0)
}

/// Indexes a pack; what an earlier pack holds keeps its place.
pub(super) async fn index(db: &mut dyn Connection, pack: &PackIndex) -> Result<()> {
    let count = pack.entries.len() as u64;
    let id = add(db, pack, count).await?;
    // In the order of hashes: neighbours lie together, and two writers never wait for each other crosswise.
    let entries: BTreeMap<_, _> = pack.entries.iter().map(|entry| (entry.hash, entry)).collect();
    let rows: Vec<_> = entries.values().map(|entry| row(id, entry)).collect();
    let written = db.insert(INSERT, &rows, " ON CONFLICT (hash) DO NOTHING").await?;
    if written < count {
        let elsewhere = Arg::Int((count - written) as i64);
        db.execute("UPDATE packs SET entries = entries - $1 WHERE id = $2", &[elsewhere, Arg::Int(id)]).await?;
    }
    Ok(())
}

pub(super) async fn replace(db: &mut dyn Connection, new: &[PackIndex], old: &[PackId]) -> Result<bool> {
    let (mut olds, mut in_use) = (HashSet::new(), 0);
    let select = format!("SELECT id, entries FROM packs WHERE hash = $1{}", db.dialect().for_update);
    for pack in old {
        let Some(found) = db.fetch_one(&select, &[Arg::Blob(&pack.0)]).await? else { return Ok(false) };
        if olds.insert(found.int(0)?) {
            in_use += found.number(1)?;
        }
    }
    if new.iter().any(|pack| old.contains(&pack.pack)) {
        return Ok(false);
    }
    let offered: BTreeMap<_, _> =
        new.iter().enumerate().flat_map(|(number, pack)| pack.entries.iter().map(move |entry| (entry.hash, (number, entry)))).collect();
    let hashes: Vec<_> = offered.keys().copied().collect();
    let mut places = HashMap::with_capacity(hashes.len());
    for found in db.fetch_by_hash("SELECT hash, pack FROM pack_index WHERE hash", &hashes).await? {
        places.insert(found.hash(0)?, found.int(1)?);
    }
    if places.values().filter(|pack| olds.contains(*pack)).count() as u64 != in_use {
        return Ok(false);
    }
    for (number, pack) in new.iter().enumerate() {
        let mine = offered.values().filter(|(of, _)| *of == number).map(|(_, entry)| *entry);
        let (moved, fresh): (Vec<_>, Vec<_>) =
            mine.filter(|entry| places.get(&entry.hash).is_none_or(|pack| olds.contains(pack))).partition(|entry| places.contains_key(&entry.hash));
        let id = add(db, pack, (moved.len() + fresh.len()) as u64).await?;
        let moved: Vec<_> = moved.into_iter().map(|entry| row(id, entry)).collect();
        let update = " ON CONFLICT (hash) DO UPDATE SET pack = excluded.pack, \"offset\" = excluded.\"offset\", len = excluded.len";
        db.insert(INSERT, &moved, update).await?;
        let fresh: Vec<_> = fresh.into_iter().map(|entry| row(id, entry)).collect();
        let written = db.insert(INSERT, &fresh, " ON CONFLICT (hash) DO NOTHING").await?;
        let elsewhere = fresh.len() as u64 - written;
        db.execute("UPDATE packs SET entries = entries - $1 WHERE id = $2", &[Arg::Int(elsewhere as i64), Arg::Int(id)]).await?;
    }
    for id in olds {
        db.execute("DELETE FROM packs WHERE id = $1", &[Arg::Int(id)]).await?;
    }
    Ok(true)
}
