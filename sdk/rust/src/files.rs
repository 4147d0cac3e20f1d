//! Sending a file of rows: its header, then its bytes.

use std::path::Path;

use anabranch_core::definition::FileFormat;
use anabranch_proto::v1;
use bytes::BytesMut;
use futures::{FutureExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::bulk::Ingested;
use crate::upload::upload;
use crate::{Client, Error};

const CHUNK_BYTES: usize = 256 << 10;

/// What goes with a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileOptions {
    /// Its format; without one, the ending of its name decides.
    pub format: Option<FileFormat>,
    /// The message of the commit; may be empty.
    pub message: String,
}

impl Client {
    /// Sends a file's rows to a view in one commit. `progress` is told how many bytes have been sent. The same file again changes nothing.
    ///
    /// # Errors
    /// [`Error::File`] where it cannot be read; `invalid_argument` where it is not of its format. Then no row of it is in.
    pub async fn ingest_path(
        &self,
        view: &str,
        path: &Path,
        options: &FileOptions,
        progress: impl FnMut(u64) + Send + 'static,
    ) -> Result<Ingested, Error> {
        let shown = path.display().to_string();
        let file = tokio::fs::File::open(path).await.map_err(|source| Error::File { path: shown.clone(), source })?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or(shown);
        self.ingest_file(view, &name, file, options, progress).await
    }

    /// Sends what a reader gives as the file of this name, as [`Client::ingest_path`] does.
    ///
    /// # Errors
    /// As [`Client::ingest_path`].
    pub async fn ingest_file(
        &self,
        view: &str,
        name: &str,
        reader: impl AsyncRead + Unpin + Send + 'static,
        options: &FileOptions,
        progress: impl FnMut(u64) + Send + 'static,
    ) -> Result<Ingested, Error> {
        let header = v1::FileHeader {
            target: Some(self.target()),
            view: view.to_owned(),
            format: options.format.map(|format| format_name(format).to_owned()).unwrap_or_default(),
            name: name.to_owned(),
            author: self.author(),
            message: options.message.clone(),
        };
        let header = v1::FileChunk { part: Some(v1::file_chunk::Part::Header(header)) };
        let source = futures::stream::iter([Ok(header)]).chain(chunks(name.to_owned(), reader, progress));
        let (messages, mut failure) = upload(source, v1::FileChunk { part: None });
        let mut ingest = self.ingest();
        let answer = async move { ingest.ingest_file(messages).await }.boxed();
        let reply = self.uploaded(answer, &mut failure).await?;
        Ok(Ingested::from(reply.into_inner()))
    }
}

fn chunks(
    path: String,
    reader: impl AsyncRead + Unpin + Send + 'static,
    progress: impl FnMut(u64) + Send + 'static,
) -> impl Stream<Item = Result<v1::FileChunk, Error>> + Send + 'static {
    futures::stream::unfold((reader, progress, 0_u64, path), |(mut reader, mut progress, mut sent, path)| async move {
        let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
        while chunk.len() < CHUNK_BYTES {
            match reader.read_buf(&mut chunk).await {
                Ok(0) => break,
                Ok(_) => {}
                Err(source) => return Some((Err(Error::File { path: path.clone(), source }), (reader, progress, sent, path))),
            }
        }
        if chunk.is_empty() {
            return None;
        }
        sent += chunk.len() as u64;
        progress(sent);
        let message = v1::FileChunk { part: Some(v1::file_chunk::Part::Data(chunk.freeze())) };
        Some((Ok(message), (reader, progress, sent, path)))
    })
}

fn format_name(format: FileFormat) -> &'static str {
    match format {
        FileFormat::Parquet => "parquet",
        FileFormat::Csv => "csv",
        FileFormat::JsonLines => "json_lines",
    }
}
