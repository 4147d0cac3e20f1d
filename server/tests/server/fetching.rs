//! Saved datasets over Flight: endpoints, and batches of an epoch.

use anabranch_proto::v1;
use anabranch_proto::v1::flight_command::Command;
use arrow::array::RecordBatch;
use arrow_flight::decode::{DecodedPayload, FlightDataDecoder};
use arrow_flight::error::FlightError;
use arrow_flight::{FlightData, FlightDescriptor, Ticket};
use futures::{StreamExt, TryStreamExt};
use prost::Message;
use tonic::{Code, Status};

use crate::support::{TestServer, command, decoded, historical, integers, kind, spine};

const ROWS: usize = 30_000;

/// A server with a dataset `train`, and the dataset as it was joined.
async fn server() -> (TestServer, RecordBatch) {
    let server = TestServer::with_weather().await;
    server.push(r#"{"origin": "JFK", "at": "2024-01-01T00:00:00Z", "temp": 5}"#).await;
    server.flush().await;
    let joined = save(&server, "train", ROWS).await;
    (server, joined)
}

async fn save(server: &TestServer, name: &str, rows: usize) -> RecordBatch {
    let keys = spine(&vec!["JFK"; rows], &vec![1; rows]);
    let numbers = integers((0..rows as i64).collect());
    let columns = [("origin", keys.column(0).clone()), ("event_timestamp", keys.column(1).clone()), ("row", numbers)];
    let ask = v1::HistoricalCommand { save_as: name.into(), ..historical(&["weather:temp"]) };
    server.historical(ask, RecordBatch::try_from_iter(columns).unwrap()).await.unwrap().0
}

fn dataset(name: &str) -> v1::DatasetCommand {
    v1::DatasetCommand { name: name.into(), ..v1::DatasetCommand::default() }
}

fn batches(batch_size: u32) -> v1::BatchesCommand {
    let dataset = Some(v1::DatasetCommand { columns: vec!["row".into()], ..dataset("train") });
    v1::BatchesCommand { dataset, batch_size, world_size: 1, seed: Some(7), chunk_bytes: 1 << 16, ..v1::BatchesCommand::default() }
}

async fn info(server: &TestServer, wanted: v1::DatasetCommand) -> Result<arrow_flight::FlightInfo, Status> {
    let descriptor = FlightDescriptor::new_cmd(command(Command::Dataset(wanted)));
    Ok(server.flight().get_flight_info(descriptor).await?.into_inner())
}

async fn get(server: &TestServer, wanted: v1::BatchesCommand) -> Result<tonic::Streaming<FlightData>, Status> {
    Ok(server.flight().do_get(Ticket::new(command(Command::Batches(wanted)))).await?.into_inner())
}

/// The start, and each batch of an epoch with the cursor behind it.
async fn epoch(server: &TestServer, wanted: v1::BatchesCommand) -> (v1::BatchesStart, Vec<(Vec<i64>, String)>) {
    let mut decoder = FlightDataDecoder::new(get(server, wanted).await.unwrap().map_err(FlightError::from));
    let first = decoder.next().await.unwrap().unwrap();
    let start = v1::BatchesStart::decode(first.inner.app_metadata).unwrap();
    let mut all = Vec::new();
    while let Some(message) = decoder.next().await {
        let message = message.unwrap();
        let about = v1::BatchesChunk::decode(message.inner.app_metadata).unwrap();
        let DecodedPayload::RecordBatch(rows) = message.payload else { panic!("no rows") };
        let mut numbers = numbers(&rows).into_iter();
        for (size, cursor) in about.rows.into_iter().zip(about.cursors) {
            all.push((numbers.by_ref().take(size as usize).collect(), cursor));
        }
        assert_eq!(numbers.len(), 0);
    }
    assert_eq!(all.len() as u64, start.batches);
    (start, all)
}

fn numbers(rows: &RecordBatch) -> Vec<i64> {
    use arrow::array::AsArray;
    rows.column_by_name("row").unwrap().as_primitive::<arrow::datatypes::Int64Type>().values().to_vec()
}

fn flat(batches: &[(Vec<i64>, String)]) -> Vec<i64> {
    batches.iter().flat_map(|(rows, _)| rows.clone()).collect()
}

#[tokio::test]
async fn the_endpoints_hold_the_dataset_in_its_order() {
    let (server, joined) = server().await;
    let info = info(&server, dataset("train")).await.unwrap();
    assert_eq!((info.total_records, info.ordered), (ROWS as i64, true));
    assert!(info.total_bytes > 0);
    let about = v1::DatasetInfo::decode(info.app_metadata.clone()).unwrap();
    assert_eq!((about.commit.len(), about.content_digest.len()), (64, 64));
    // What is committed later changes nothing for who holds the tickets.
    server.http("DELETE", "/v1/objects/datasets/train", "").await;
    let mut messages: Vec<FlightData> = Vec::new();
    for endpoint in info.endpoint {
        let answer = server.flight().do_get(endpoint.ticket.unwrap()).await.unwrap().into_inner();
        messages.extend(answer.try_collect::<Vec<_>>().await.unwrap());
    }
    let rows = decoded(messages).await;
    assert_eq!(rows.columns(), joined.columns());
}

#[tokio::test]
async fn ranks_share_one_epoch_and_go_on_from_each_other_s_cursors() {
    let (server, _) = server().await;
    let (start, whole) = epoch(&server, batches(1_000)).await;
    assert_eq!((start.rows, start.seed, start.epoch), (ROWS as u64, Some(7), 0));
    let order = flat(&whole);
    assert_ne!(order, (0..ROWS as i64).collect::<Vec<_>>());
    let rank = |rank, cursor: &str| v1::BatchesCommand { rank, world_size: 3, cursor: cursor.to_owned(), ..batches(512) };
    let (_, second) = epoch(&server, rank(1, "")).await;
    assert_eq!(flat(&second), order.iter().copied().skip(1).step_by(3).collect::<Vec<_>>());
    let (_, rest) = epoch(&server, rank(2, &whole[9].1)).await;
    assert_eq!(flat(&rest), order[10_000..].iter().copied().skip(2).step_by(3).collect::<Vec<_>>());
    assert_eq!(server.running.app().metrics().dataset_readers.get(), 0);
}

#[tokio::test]
async fn what_does_not_fit_is_refused_with_its_name() {
    let (server, _) = server().await;
    save(&server, "other", 10).await;
    let (_, read) = epoch(&server, batches(10_000)).await;
    let cursor = &read[0].1;
    let of = |name: &str| Some(dataset(name));
    let with = |change: fn(&mut v1::DatasetCommand)| {
        let mut wanted = dataset("train");
        change(&mut wanted);
        v1::BatchesCommand { dataset: Some(wanted), ..batches(1) }
    };
    for (wanted, kind_of, says) in [
        (v1::BatchesCommand { dataset: of("trian"), ..batches(1) }, "not_found", "trian"),
        (v1::BatchesCommand { dataset: of("other"), cursor: cursor.clone(), ..batches(1) }, "failed_precondition", "dataset"),
        (v1::BatchesCommand { epoch: Some(1), cursor: cursor.clone(), ..batches(1) }, "failed_precondition", "epoch"),
        (v1::BatchesCommand { cursor: "cursor".into(), ..batches(1) }, "invalid_argument", "cursor"),
        (batches(0), "invalid_argument", "batch_size"),
        (batches(u32::MAX), "invalid_argument", "batch_size"),
        (v1::BatchesCommand { rank: 1, ..batches(1) }, "invalid_argument", "rank"),
        (with(|wanted| wanted.columns.push("price".into())), "invalid_argument", "price"),
        (with(|wanted| wanted.split = "held-out".into()), "not_found", "held-out"),
        (with(|wanted| wanted.content_digest = "0".repeat(64)), "failed_precondition", "train"),
    ] {
        let error = get(&server, wanted).await.unwrap_err();
        assert_eq!(kind(&error), kind_of, "{error}");
        assert!(error.message().contains(says), "{error}");
    }
    let rows = v1::DatasetRowsCommand { dataset: of("train"), first_group: 1, groups: 7 };
    let error = server.flight().do_get(Ticket::new(command(Command::DatasetRows(rows)))).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
}

#[tokio::test]
async fn a_reader_that_goes_away_leaves_nothing_running_and_nothing_on_disk() {
    let (server, _) = server().await;
    let mut stream = get(&server, batches(1)).await.unwrap();
    stream.message().await.unwrap().unwrap();
    stream.message().await.unwrap().unwrap();
    let metrics = server.running.app().metrics();
    assert_eq!(metrics.dataset_readers.get(), 1);
    let labels = anabranch_server::metrics::RepositoryLabels { repository: "default".to_owned() };
    let sent = || metrics.dataset_rows.get_or_create(&labels).get();
    let joined = ROWS as u64;
    // The transport takes some 100 kB, an epoch of single rows with their cursors takes 3 MB: what is not read is not gathered.
    assert!(sent() - joined < joined / 2, "{}", sent());
    drop(stream);
    while metrics.dataset_readers.get() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(sent() - joined < joined / 2, "{}", sent());
    let left: Vec<_> = std::fs::read_dir(server.folder.path().join("data/tmp")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
