//! `object`: files of any size under version control.

use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anabranch_client::{Client, NewObject, Object as Found, ObjectCondition, ObjectQuery, ObjectSource, ObjectsCommitted};
use clap::{Args, Subcommand};
use serde_json::json;

use crate::error::Error;
use crate::output::{Output, short};

/// Puts, gets, lists, moves and deletes files under version control.
#[derive(Debug, Args)]
pub(crate) struct Object {
    #[command(subcommand)]
    verb: ObjectVerb,
}

/// What every change takes.
#[derive(Debug, Args)]
struct Change {
    /// Refuse where an object is there already
    #[arg(long)]
    if_absent: bool,
    /// Why, for the log
    #[arg(long, short, default_value = "", hide_default_value = true)]
    message: String,
}

impl Change {
    fn condition(&self) -> ObjectCondition {
        if self.if_absent { ObjectCondition::Absent } else { ObjectCondition::Any }
    }
}

#[derive(Debug, Subcommand)]
enum ObjectVerb {
    /// Put a file, or all files of a folder, in one commit
    Put {
        /// The file, the folder with -r, or - for stdin
        source: PathBuf,
        /// The path it gets, or with -r the prefix; by default the file's name, with -r nothing
        path: Option<String>,
        /// Put all files of a folder
        #[arg(long, short)]
        recursive: bool,
        /// What it is, as a media type; by default what the path's ending says
        #[arg(long, value_name = "TYPE", default_value = "", hide_default_value = true)]
        content_type: String,
        /// Refuse unless the object there has this checksum
        #[arg(long, value_name = "CHECKSUM", conflicts_with = "if_absent")]
        if_match: Option<String>,
        #[command(flatten)]
        change: Change,
    },
    /// Write an object to a file, verified
    Get {
        /// Its path
        path: String,
        /// The file, or - for stdout; by default the last part of its path
        file: Option<PathBuf>,
        /// The first byte; only to stdout
        #[arg(long, default_value_t = 0)]
        offset: u64,
        /// How many bytes; only to stdout
        #[arg(long)]
        length: Option<u64>,
    },
    /// List objects
    Ls {
        /// Only paths that begin so
        #[arg(default_value = "", hide_default_value = true)]
        prefix: String,
        /// Also what lies in folders beneath
        #[arg(long, short)]
        recursive: bool,
    },
    /// Show what an object is
    Stat {
        /// Its path
        path: String,
    },
    /// Delete objects in one commit; older commits keep them
    Rm {
        /// Their paths, or with -r prefixes
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<String>,
        /// Delete all objects whose paths begin so
        #[arg(long, short)]
        recursive: bool,
        /// Why, for the log
        #[arg(long, short, default_value = "", hide_default_value = true)]
        message: String,
    },
    /// Give the content of an object another path, too; nothing is copied
    Cp {
        /// Its path
        from: String,
        /// The new path
        to: String,
        /// The ref to take it from [default: the one worked on]
        #[arg(long, value_name = "REF", default_value = "", hide_default_value = true)]
        from_ref: String,
        #[command(flatten)]
        change: Change,
    },
    /// Give an object another path
    Mv {
        /// Its path
        from: String,
        /// The new path
        to: String,
        #[command(flatten)]
        change: Change,
    },
    /// Take files that lie in the object store already under version control, where they are
    Import {
        /// A file of the object store, or a folder of it, such as import/models
        source: String,
        /// The path it gets; by default its own
        #[arg(default_value = "", hide_default_value = true)]
        to: String,
        #[command(flatten)]
        change: Change,
    },
}

pub(crate) async fn object(client: &Client, object: Object, output: &mut Output) -> Result<(), Error> {
    match object.verb {
        ObjectVerb::Put { source, path, recursive, content_type, if_match, change } => {
            let condition = if_match.map_or_else(|| change.condition(), ObjectCondition::Checksum);
            let (objects, bytes) = if recursive { folder(&source, path.as_deref())? } else { file(&source, path)? };
            let with = |object| NewObject { content_type: content_type.clone(), condition: condition.clone(), ..object };
            let bar = output.progress(bytes);
            bar.set_message(source.display().to_string());
            let shown = bar.clone();
            let put = client.put_objects(objects.into_iter().map(with).collect(), &change.message, move |sent| shown.set_position(sent)).await;
            bar.finish_and_clear();
            committed(output, &put?)
        }
        ObjectVerb::Get { path, file, offset, length } => get(client, output, &path, file, (offset, length)).await,
        ObjectVerb::Ls { prefix, recursive } => ls(client, output, prefix, recursive).await,
        ObjectVerb::Stat { path } => {
            let found = client.stat_object(&path).await?;
            output.value(&found, |output| {
                output.facts(&[
                    ("path", found.path.clone()),
                    ("size", found.size.to_string()),
                    ("checksum", found.checksum.clone()),
                    ("content type", found.content_type.clone()),
                    ("address", found.address.clone()),
                ])
            })
        }
        ObjectVerb::Rm { paths, recursive, message } => {
            let paths = if recursive { beneath(client, &paths).await? } else { paths };
            let count = paths.len();
            let done = client.delete_objects(paths, &ObjectCondition::Any, &message).await?;
            output.value(&json!({"commit": done.commit, "deleted": count}), |output| {
                output.line(&format!("{count} deleted in commit {}", short(&done.commit)))
            })
        }
        ObjectVerb::Cp { from, to, from_ref, change } => {
            let done = client.copy_object(&from_ref, &from, &to, &change.condition(), &change.message).await?;
            committed(output, &done)
        }
        ObjectVerb::Mv { from, to, change } => {
            let done = client.rename_object(&from, &to, &change.condition(), &change.message).await?;
            committed(output, &done)
        }
        ObjectVerb::Import { source, to, change } => {
            let done = client.import_objects(&source, &to, &change.condition(), &change.message).await?;
            committed(output, &done)
        }
    }
}

/// One file or stdin, and its size as far as it is known.
fn file(source: &Path, path: Option<String>) -> Result<(Vec<NewObject>, u64), Error> {
    if source == Path::new("-") {
        let path = path.ok_or_else(|| Error::Usage("stdin has no name: give the object's path".to_owned()))?;
        let stdin = std::io::stdin().as_fd().try_clone_to_owned().map_err(|error| Error::file(source, error))?;
        let stdin = tokio::fs::File::from_std(std::fs::File::from(stdin));
        let reader = ObjectSource::Reader("stdin".to_owned(), Box::new(stdin));
        return Ok((vec![NewObject::new(path, reader)], 0));
    }
    let metadata = std::fs::metadata(source).map_err(|error| Error::file(source, error))?;
    if metadata.is_dir() {
        return Err(Error::Usage(format!("{} is a folder: add -r to put all files in it", source.display())));
    }
    let name = || source.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    let path = path.or_else(name).ok_or_else(|| Error::file(source, "its name is not UTF-8: give the object's path"))?;
    Ok((vec![NewObject::new(path, ObjectSource::File(source.to_owned()))], metadata.len()))
}

/// All files of a folder, by path, and their size together.
fn folder(source: &Path, prefix: Option<&str>) -> Result<(Vec<NewObject>, u64), Error> {
    let prefix = prefix.unwrap_or_default().trim_end_matches('/');
    let (mut objects, mut bytes) = (Vec::new(), 0);
    let mut folders = vec![(source.to_owned(), prefix.to_owned())];
    while let Some((folder, prefix)) = folders.pop() {
        let fail = |error: std::io::Error| Error::file(&folder, error);
        let mut entries = std::fs::read_dir(&folder).map_err(fail)?.collect::<Result<Vec<_>, _>>().map_err(fail)?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let place = entry.path();
            let name = entry.file_name().into_string().map_err(|_| Error::file(&place, "its name is not UTF-8"))?;
            let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
            let metadata = std::fs::metadata(&place).map_err(|error| Error::file(&place, error))?;
            if metadata.is_dir() {
                folders.push((place, path));
            } else if metadata.is_file() {
                bytes += metadata.len();
                objects.push(NewObject::new(path, ObjectSource::File(place)));
            } else {
                return Err(Error::file(&place, "it is no plain file"));
            }
        }
    }
    if objects.is_empty() {
        return Err(Error::file(source, "there is no file in it"));
    }
    objects.sort_by(|left, right| left.path.cmp(&right.path));
    Ok((objects, bytes))
}

async fn get(client: &Client, output: &mut Output, path: &str, file: Option<PathBuf>, range: (u64, Option<u64>)) -> Result<(), Error> {
    let file = match file {
        Some(file) => file,
        None => path.rsplit('/').next().unwrap_or(path).into(),
    };
    if file == Path::new("-") {
        let (offset, length) = range;
        let end = length.map_or(u64::MAX, |length| offset.saturating_add(length));
        let mut download = client.get_object(path, Some(offset..end)).await?;
        let mut stdout = std::io::stdout();
        while let Some(bytes) = download.next().await? {
            stdout.write_all(&bytes).map_err(Error::Output)?;
        }
        return stdout.flush().map_err(Error::Output);
    }
    if range != (0, None) {
        return Err(Error::Usage("--offset and --length write to stdout: give - as the file".to_owned()));
    }
    let bar = output.progress(0);
    bar.set_message(path.to_owned());
    let shown = bar.clone();
    let tell = move |size, come| {
        shown.set_length(size);
        shown.set_position(come);
    };
    let found = client.download_object(path, &file, tell).await;
    bar.finish_and_clear();
    let found = found?;
    output.value(&json!({"file": file.display().to_string(), "object": found}), |output| {
        output.line(&format!("{} ({} bytes) in {}", found.path, found.size, file.display()))
    })
}

async fn pages(client: &Client, mut query: ObjectQuery) -> Result<(Vec<Found>, Vec<String>), Error> {
    let (mut objects, mut prefixes) = (Vec::new(), Vec::new());
    loop {
        let page = client.list_objects(&query).await?;
        objects.extend(page.objects);
        prefixes.extend(page.prefixes);
        match page.next {
            Some(next) => query.after = next,
            None => return Ok((objects, prefixes)),
        }
    }
}

async fn ls(client: &Client, output: &mut Output, prefix: String, recursive: bool) -> Result<(), Error> {
    let delimiter = if recursive { String::new() } else { "/".to_owned() };
    let (objects, prefixes) = pages(client, ObjectQuery { prefix, delimiter, ..ObjectQuery::default() }).await?;
    let mut rows: Vec<_> = objects.iter().map(|found| vec![found.path.clone(), found.size.to_string(), found.content_type.clone()]).collect();
    rows.extend(prefixes.iter().map(|prefix| vec![prefix.clone(), String::new(), String::new()]));
    rows.sort();
    output.value(&json!({"objects": objects, "prefixes": prefixes}), |output| output.table(&["path", "size", "content type"], &rows))
}

/// The paths of all objects beneath some prefixes.
async fn beneath(client: &Client, prefixes: &[String]) -> Result<Vec<String>, Error> {
    let mut paths = std::collections::BTreeSet::new();
    for prefix in prefixes {
        let (objects, _) = pages(client, ObjectQuery { prefix: prefix.clone(), ..ObjectQuery::default() }).await?;
        if objects.is_empty() {
            return Err(Error::Missing(format!("no object whose path begins with {prefix:?}")));
        }
        paths.extend(objects.into_iter().map(|found| found.path));
    }
    Ok(paths.into_iter().collect())
}

fn committed(output: &mut Output, done: &ObjectsCommitted) -> Result<(), Error> {
    output.value(done, |output| {
        let what = if done.changed { "commit" } else { "nothing changed at" };
        let rows: Vec<_> = done.objects.iter().map(|found| vec![found.path.clone(), found.size.to_string(), found.checksum.clone()]).collect();
        if !rows.is_empty() {
            output.table(&["path", "size", "checksum"], &rows)?;
        }
        output.line(&format!("{what} {}", short(&done.commit)))
    })
}
