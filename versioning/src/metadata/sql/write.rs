//! Writes as data, and how they are made within a transaction that the back-end began.
//!
//! A write that answers `false`, `None`, [`Renamed::NoBranch`] and the like has written nothing but the beat of a lease that it holds, so that others in
//! the same transaction need no savepoint beside it. One that fails has left anything: its transaction must be rolled back.

use anabranch_core::{BranchId, Timestamp};
use bytes::Bytes;

use super::super::{branch_lease, check_count};
use super::{Arg, BRANCH, Connection, LEASE, Row, SIZES, damaged, dump, packs, placeholders};
use crate::metadata::{BranchInfo, Fence, HeadMove, LeaseState, MetadataDump, MetadataWrite, Publication, Renamed, TagInfo};
use crate::{CommitId, PackId, PackIndex, Result};

/// One call that writes.
#[derive(Debug, Clone)]
pub(in crate::metadata) enum Write {
    Publish(Publication),
    CreateBranch { name: String, head: CommitId, time: Timestamp, author: String },
    DeleteBranch { name: String, id: BranchId },
    RenameBranch { name: String, id: BranchId, new: String },
    ProtectBranch { name: String, protected: bool },
    CreateTag(TagInfo),
    DeleteTag { name: String },
    SwapValue { space: String, key: Bytes, expected: Option<Bytes>, new: Option<Bytes> },
    Allocate { mark: String, count: u64 },
    TakeLease { name: String, holder: String, dead: Option<(u64, u64)> },
    RenewLease(Fence),
    ReleaseLease { name: String, holder: String },
    ReplacePacks { new: Vec<PackIndex>, old: Vec<PackId> },
    Load(Box<MetadataDump>),
}

/// What it answers.
#[derive(Debug, Clone)]
pub(in crate::metadata) enum Outcome {
    Done(bool),
    Branch(Option<BranchInfo>),
    Renamed(Renamed),
    First(u64),
    Lease(LeaseState),
}

/// Makes writes one after the other; branches that are made in a row go out together.
pub(in crate::metadata) async fn perform_all(db: &mut dyn Connection, writes: &[Write]) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::with_capacity(writes.len());
    let mut rest = writes;
    while let [first, later @ ..] = rest {
        let run = rest.iter().take_while(|write| matches!(write, Write::CreateBranch { .. })).count();
        if run > 0 {
            let size = SIZES.into_iter().find(|size| *size <= run).unwrap_or(1);
            outcomes.extend(create_branches(db, &rest[..size]).await?);
            rest = &rest[size..];
        } else {
            outcomes.push(perform(db, first).await?);
            rest = later;
        }
    }
    Ok(outcomes)
}

async fn perform(db: &mut dyn Connection, write: &Write) -> Result<Outcome> {
    let written = |rows: u64| Outcome::Done(rows > 0);
    Ok(match write {
        Write::Publish(publication) => Outcome::Done(publish(db, publication).await?),
        Write::CreateBranch { .. } => create_branches(db, std::slice::from_ref(write)).await?.pop().ok_or_else(|| damaged("no answer"))?,
        Write::DeleteBranch { name, id } => {
            let sql = "DELETE FROM branches WHERE name = $1 AND id = $2 AND protected = 0";
            let deleted = db.execute(sql, &[Arg::Text(name), Arg::Int(id.0 as i64)]).await?;
            if deleted > 0 {
                db.execute("DELETE FROM leases WHERE name = $1", &[Arg::Text(&branch_lease(*id))]).await?;
            }
            written(deleted)
        }
        Write::RenameBranch { name, id, new } => Outcome::Renamed(rename(db, name, *id, new).await?),
        Write::ProtectBranch { name, protected } => {
            written(db.execute("UPDATE branches SET protected = $1 WHERE name = $2", &[Arg::Int((*protected).into()), Arg::Text(name)]).await?)
        }
        Write::CreateTag(tag) => {
            let sql = "INSERT INTO tags (name, commit_id, created) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING";
            written(db.execute(sql, &[Arg::Text(&tag.name), Arg::Blob(&tag.commit.0), Arg::Int(tag.created.micros())]).await?)
        }
        Write::DeleteTag { name } => written(db.execute("DELETE FROM tags WHERE name = $1", &[Arg::Text(name)]).await?),
        Write::SwapValue { space, key, expected, new } => Outcome::Done(swap(db, space, key, expected.as_deref(), new.as_deref()).await?),
        Write::Allocate { mark, count } => Outcome::First(allocate(db, mark, *count).await?),
        Write::TakeLease { name, holder, dead } => Outcome::Lease(change_lease(db, name, |lease| lease.take(holder, *dead)).await?),
        Write::RenewLease(fence) => Outcome::Done(renew(db, fence).await?),
        Write::ReleaseLease { name, holder } => Outcome::Lease(change_lease(db, name, |lease| lease.release(holder)).await?),
        Write::ReplacePacks { new, old } => Outcome::Done(packs::replace(db, new, old).await?),
        Write::Load(dump) => {
            dump::load_all(db, dump).await?;
            Outcome::Done(true)
        }
    })
}

async fn publish(db: &mut dyn Connection, publication: &Publication) -> Result<bool> {
    // The row of the lease is held from here to the end of the transaction, so that nobody takes it over in between.
    if let Some(fence) = &publication.fence
        && !renew(db, fence).await?
    {
        return Ok(false);
    }
    if let Some(head) = &publication.head
        && !move_head(db, head).await?
    {
        return Ok(false);
    }
    if let Some(pack) = &publication.pack {
        packs::index(db, pack).await?;
    }
    // Rows are locked in one order by all, so that none wait for each other crosswise; writes of one row keep theirs.
    let mut writes: Vec<_> = publication.writes.iter().collect();
    writes.sort_by_key(|write| match write {
        MetadataWrite::Put { space, key, .. } | MetadataWrite::Delete { space, key } => (0, space.as_str(), key.as_ref()),
        MetadataWrite::RaiseMark { name, .. } => (1, name.as_str(), &[][..]),
        MetadataWrite::BumpEpoch { tag } => (2, tag.as_str(), &[][..]),
    });
    for write in writes {
        write_value(db, write).await?;
    }
    Ok(true)
}

async fn move_head(db: &mut dyn Connection, head: &HeadMove) -> Result<bool> {
    let last = head.steps.last().map_or(head.expected, |step| step.commit);
    let branch = Arg::Int(head.branch.0 as i64);
    let update = "UPDATE branches SET head = $1 WHERE id = $2 AND head = $3";
    if db.execute(update, &[Arg::Blob(&last.0), branch, Arg::Blob(&head.expected.0)]).await? == 0 {
        return Ok(false);
    }
    let olds = std::iter::once(&head.expected).chain(head.steps.iter().map(|step| &step.commit));
    let rows: Vec<_> = olds
        .zip(&head.steps)
        .map(|(old, step)| {
            let (time, author, action) = (Arg::Int(step.time.micros()), Arg::Text(&step.author), Arg::Text(&step.action));
            vec![branch, Arg::MaybeBlob(Some(&old.0)), Arg::Blob(&step.commit.0), time, author, action]
        })
        .collect();
    db.insert("INSERT INTO reflog (branch, old, new, time, author, action)", &rows, "").await?;
    Ok(true)
}

async fn write_value(db: &mut dyn Connection, write: &MetadataWrite) -> Result<()> {
    match write {
        MetadataWrite::Put { space, key, value } => {
            let sql =
                "INSERT INTO named_values (space, key, value) VALUES ($1, $2, $3) ON CONFLICT (space, key) DO UPDATE SET value = excluded.value";
            db.execute(sql, &[Arg::Text(space), Arg::Blob(key), Arg::Blob(value)]).await?
        }
        MetadataWrite::Delete { space, key } => {
            db.execute("DELETE FROM named_values WHERE space = $1 AND key = $2", &[Arg::Text(space), Arg::Blob(key)]).await?
        }
        MetadataWrite::RaiseMark { name, to } => {
            let sql = format!(
                "INSERT INTO marks (name, next) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET next = {}(marks.next, excluded.next)",
                db.dialect().greatest
            );
            db.execute(&sql, &[Arg::Text(name), Arg::Int(check_count(Some(*to))?.max(1))]).await?
        }
        MetadataWrite::BumpEpoch { tag } => {
            let sql = "INSERT INTO epochs (tag, epoch) VALUES ($1, 1) ON CONFLICT (tag) DO UPDATE SET epoch = epochs.epoch + 1";
            db.execute(sql, &[Arg::Text(tag)]).await?
        }
    };
    Ok(())
}

/// Several branches by two statements. Of two that want one name the first gets it.
async fn create_branches(db: &mut dyn Connection, writes: &[Write]) -> Result<Vec<Outcome>> {
    let wanted = || {
        writes.iter().filter_map(|write| match write {
            Write::CreateBranch { name, head, time, author } => Some((name, head, *time, author)),
            _ => None,
        })
    };
    let args: Vec<_> =
        wanted().flat_map(|(name, head, time, _)| [Arg::Text(name), Arg::Blob(&head.0), Arg::Int(0), Arg::Int(time.micros())]).collect();
    let rows = placeholders(writes.len(), 4);
    let insert = format!("INSERT INTO branches (name, head, protected, created) VALUES {rows} ON CONFLICT (name) DO NOTHING RETURNING id, name");
    let mut made = std::collections::HashMap::new();
    for row in db.fetch(&insert, &args).await? {
        made.insert(row.text(1)?, BranchId(row.number(0)?));
    }
    let mut log = Vec::with_capacity(made.len());
    let mut outcomes = Vec::with_capacity(writes.len());
    for (name, head, created, author) in wanted() {
        let branch = made.remove(name).map(|id| {
            let (id_arg, time, action) = (Arg::Int(id.0 as i64), Arg::Int(created.micros()), Arg::Text("create"));
            log.push(vec![id_arg, Arg::MaybeBlob(None), Arg::Blob(&head.0), time, Arg::Text(author), action]);
            BranchInfo { id, name: name.clone(), head: *head, protected: false, created }
        });
        outcomes.push(Outcome::Branch(branch));
    }
    db.insert("INSERT INTO reflog (branch, old, new, time, author, action)", &log, "").await?;
    Ok(outcomes)
}

async fn rename(db: &mut dyn Connection, name: &str, id: BranchId, new: &str) -> Result<Renamed> {
    let sql = format!("{BRANCH} WHERE name = $1 AND id = $2 AND protected = 0{}", db.dialect().for_update);
    let Some(found) = db.fetch_one(&sql, &[Arg::Text(name), Arg::Int(id.0 as i64)]).await? else { return Ok(Renamed::NoBranch) };
    if db.fetch_one("SELECT id FROM branches WHERE name = $1", &[Arg::Text(new)]).await?.is_some() {
        return Ok(Renamed::Taken);
    }
    db.execute("UPDATE branches SET name = $1 WHERE id = $2", &[Arg::Text(new), Arg::Int(id.0 as i64)]).await?;
    Ok(Renamed::Done(BranchInfo { name: new.to_owned(), ..found.branch()? }))
}

async fn swap(db: &mut dyn Connection, space: &str, key: &[u8], expected: Option<&[u8]>, new: Option<&[u8]>) -> Result<bool> {
    let (space, key) = (Arg::Text(space), Arg::Blob(key));
    let rows = match (expected, new) {
        (None, None) => {
            let held = db.fetch_one("SELECT key FROM named_values WHERE space = $1 AND key = $2", &[space, key]).await?;
            return Ok(held.is_none());
        }
        (None, Some(new)) => {
            let sql = "INSERT INTO named_values (space, key, value) VALUES ($1, $2, $3) ON CONFLICT (space, key) DO NOTHING";
            db.execute(sql, &[space, key, Arg::Blob(new)]).await?
        }
        (Some(expected), Some(new)) => {
            let sql = "UPDATE named_values SET value = $1 WHERE space = $2 AND key = $3 AND value = $4";
            db.execute(sql, &[Arg::Blob(new), space, key, Arg::Blob(expected)]).await?
        }
        (Some(expected), None) => {
            db.execute("DELETE FROM named_values WHERE space = $1 AND key = $2 AND value = $3", &[space, key, Arg::Blob(expected)]).await?
        }
    };
    Ok(rows > 0)
}

async fn allocate(db: &mut dyn Connection, mark: &str, count: u64) -> Result<u64> {
    let count = check_count(Some(count))?;
    check_count((count as u64).checked_add(1))?;
    let sql = "INSERT INTO marks (name, next) VALUES ($1, 1 + $2) \
               ON CONFLICT (name) DO UPDATE SET next = marks.next + $2 WHERE marks.next <= $3 RETURNING next";
    let args = [Arg::Text(mark), Arg::Int(count), Arg::Int(i64::MAX - count)];
    let next = db.fetch_one(sql, &args).await?.map(|row| row.number(0)).transpose()?;
    Ok(next.ok_or_else(|| crate::Error::invalid("mark", "no id is left beyond 2^63"))? - count as u64)
}

async fn renew(db: &mut dyn Connection, fence: &Fence) -> Result<bool> {
    let sql = "UPDATE leases SET beat = beat + 1 WHERE name = $1 AND token = $2 AND holder IS NOT NULL";
    Ok(db.execute(sql, &[Arg::Text(&fence.lease), Arg::Int(check_count(Some(fence.token))?)]).await? > 0)
}

async fn change_lease(db: &mut dyn Connection, name: &str, change: impl FnOnce(&mut LeaseState)) -> Result<LeaseState> {
    let name = Arg::Text(name);
    let select = format!("{LEASE}{}", db.dialect().for_update);
    let read = |row: Option<Row>| row.map(|row| row.lease()).transpose();
    let found = match read(db.fetch_one(&select, &[name]).await?)? {
        Some(found) => found,
        None => {
            let sql = "INSERT INTO leases (name, token, beat, holder, waiting) VALUES ($1, 0, 0, NULL, '') ON CONFLICT (name) DO NOTHING";
            db.execute(sql, &[name]).await?;
            read(db.fetch_one(&select, &[name]).await?)?.unwrap_or_default()
        }
    };
    let mut lease = found.clone();
    change(&mut lease);
    if lease != found {
        let sql = "UPDATE leases SET token = $1, beat = $2, holder = $3, waiting = $4 WHERE name = $5";
        let (token, beat) = (Arg::Int(check_count(Some(lease.token))?), Arg::Int(check_count(Some(lease.beat))?));
        db.execute(sql, &[token, beat, Arg::MaybeText(lease.holder.as_deref()), Arg::Text(&lease.waiting.join("\n")), name]).await?;
    }
    Ok(lease)
}
