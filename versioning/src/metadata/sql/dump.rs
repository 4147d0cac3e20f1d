//! Everything at once, out and in.

use anabranch_core::BranchId;

use super::{Arg, BRANCH, Connection, REFLOG, TAG};
use crate::metadata::{MetadataDump, NOT_EMPTY, check_count};
use crate::{Error, Result};

/// Everything that the transaction of this connection sees.
pub(in crate::metadata) async fn dump_all(db: &mut dyn Connection) -> Result<MetadataDump> {
    let mut dump = MetadataDump::default();
    let last = db.dialect().last_branch;
    dump.last_branch = db.fetch_one(last, &[]).await?.map_or(Ok(0), |row| row.number(0))?;
    for row in db.fetch(&format!("{BRANCH} ORDER BY name"), &[]).await? {
        dump.branches.push(row.branch()?);
    }
    for row in db.fetch(&format!("{}, branch FROM reflog ORDER BY seq", REFLOG.trim_end_matches(" FROM reflog")), &[]).await? {
        dump.reflog.push((BranchId(row.number(6)?), row.reflog_entry()?));
    }
    for row in db.fetch(&format!("{TAG} ORDER BY name"), &[]).await? {
        dump.tags.push(row.tag()?);
    }
    for row in db.fetch("SELECT space, key, value FROM named_values ORDER BY space, key", &[]).await? {
        dump.values.push((row.text(0)?, row.blob(1)?, row.blob(2)?));
    }
    for row in db.fetch("SELECT name, next FROM marks", &[]).await? {
        dump.marks.insert(row.text(0)?, row.number(1)?);
    }
    for row in db.fetch("SELECT tag, epoch FROM epochs", &[]).await? {
        dump.epochs.insert(row.text(0)?, row.number(1)?);
    }
    Ok(dump)
}

pub(super) async fn load_all(db: &mut dyn Connection, dump: &MetadataDump) -> Result<()> {
    for table in ["branches", "reflog", "tags", "named_values", "marks", "epochs"] {
        if db.fetch_one(&format!("SELECT 1 FROM {table} LIMIT 1"), &[]).await?.is_some() {
            return Err(Error::invalid("restore", NOT_EMPTY));
        }
    }
    let branches: Vec<_> = dump
        .branches
        .iter()
        .map(|info| {
            let [id, protected, created] = [info.id.0 as i64, info.protected.into(), info.created.micros()].map(Arg::Int);
            vec![id, Arg::Text(&info.name), Arg::Blob(&info.head.0), protected, created]
        })
        .collect();
    db.insert("INSERT INTO branches (id, name, head, protected, created)", &branches, "").await?;
    let reflog: Vec<_> = dump
        .reflog
        .iter()
        .map(|(branch, entry)| {
            let old = Arg::MaybeBlob(entry.old.as_ref().map(|old| &old.0[..]));
            let (seq, branch, time) = (Arg::Int(entry.seq as i64), Arg::Int(branch.0 as i64), Arg::Int(entry.time.micros()));
            vec![seq, branch, old, Arg::Blob(&entry.new.0), time, Arg::Text(&entry.author), Arg::Text(&entry.action)]
        })
        .collect();
    db.insert("INSERT INTO reflog (seq, branch, old, new, time, author, action)", &reflog, "").await?;
    let tags: Vec<_> = dump.tags.iter().map(|tag| vec![Arg::Text(&tag.name), Arg::Blob(&tag.commit.0), Arg::Int(tag.created.micros())]).collect();
    db.insert("INSERT INTO tags (name, commit_id, created)", &tags, "").await?;
    let values: Vec<_> = dump.values.iter().map(|(space, key, value)| vec![Arg::Text(space), Arg::Blob(key), Arg::Blob(value)]).collect();
    db.insert("INSERT INTO named_values (space, key, value)", &values, "").await?;
    for (into, numbers) in [("INSERT INTO marks (name, next)", &dump.marks), ("INSERT INTO epochs (tag, epoch)", &dump.epochs)] {
        let rows = numbers.iter().map(|(name, number)| Ok(vec![Arg::Text(name), Arg::Int(check_count(Some(*number))?)]));
        db.insert(into, &rows.collect::<Result<Vec<_>>>()?, "").await?;
    }
    let last_entry = dump.reflog.last().map_or(0, |(_, entry)| entry.seq);
    for (statements, last) in [(db.dialect().raise_branch, dump.last_branch), (db.dialect().raise_reflog, last_entry)] {
        for statement in statements {
            db.execute(statement, &[Arg::Int(check_count(Some(last))?)]).await?;
        }
    }
    Ok(())
}
