//! The data folder that the first release made is opened, read and written by today's program; one of a newer format is refused.
//!
//! The fixture is a zstd stream of files: path length (`u16` BE), path, content length (`u64` BE), content.

use std::io::Read;
use std::path::Path;

use crate::commands::Shell;

const FIXTURE: &[u8] = include_bytes!("../golden/folder-spine.zst");
/// What the first release said of it.
const HEAD: &str = "fc306283c889696e99465da132e1a4071b82dcaf14adf827f98fa630a6f5cb22";
const FIX: &str = "79a534de01a36c1a399c341b8be70e7708e1cfdbd828d3416b282cc9567349eb";
const DIGEST: &str = "273637009c0b9b7c48ca4fb4d75c4a64b9a479e559b5e1f6e74b2e5b1b62a6dc";

pub(crate) fn unpack(into: &Path) {
    let mut files = zstd::Decoder::new(FIXTURE).unwrap();
    let mut len = [0; 2];
    while files.read_exact(&mut len).is_ok() {
        let (mut path, mut size) = (vec![0; usize::from(u16::from_be_bytes(len))], [0; 8]);
        files.read_exact(&mut path).unwrap();
        files.read_exact(&mut size).unwrap();
        let path = into.join(std::str::from_utf8(&path).unwrap());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut content = std::fs::File::create(&path).unwrap();
        std::io::copy(&mut (&mut files).take(u64::from_be_bytes(size)), &mut content).unwrap();
    }
}

#[test]
fn the_folder_of_the_first_release_opens_reads_the_same_and_is_written_to() {
    let shell = Shell::new();
    unpack(&shell.path().join("data"));
    let refs = shell.ok("branch list") + &shell.ok("tag list");
    assert!(refs.contains("main") && refs.contains("fix") && refs.contains("v1"), "{refs}");
    assert_eq!((&shell.json("log")[0]["id"], &shell.json("log --ref fix")[0]["id"]), (&HEAD.into(), &FIX.into()));
    assert_eq!(shell.json("log --ref tag:v1")[0]["id"], HEAD);
    assert_eq!(shell.ok("get-online --features weather --key origin=JFK"), "origin  temp  wind\nJFK     41.0  8.0\n");
    shell.file("spine.csv", "origin,event_timestamp\nJFK,2013-01-01T05:30:00Z\nEWR,2013-01-01T07:00:00Z\n");
    let again = shell.json("dataset get --spine spine.csv --features weather -o out.parquet --ref tag:v1");
    assert_eq!((again["content_digest"].as_str().unwrap(), again["rows"].as_u64()), (DIGEST, Some(2)));
    assert!(shell.ok("dataset list").contains("train"));
    assert_eq!(shell.json("quarantine list")["total"], 1);
    assert_eq!(shell.json("fsck --deep")["findings"], serde_json::json!([]));

    let row = r#"{"origin": "JFK", "time": "2013-01-01T08:00:00Z", "temp": 45.0}"#;
    assert!(shell.run_with("push weather", row).status.success());
    shell.ok("flush");
    shell.ok("branch create later");
    assert_eq!(shell.ok("get-online --features weather:temp --key origin=JFK"), "origin  temp\nJFK     45.0\n");
    assert_ne!(shell.json("log")[0]["id"], HEAD);
    assert_eq!(shell.json("fsck")["whole"], true);
}

/// As the header's checksum is computed.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[test]
fn a_log_of_a_newer_format_is_refused_with_what_to_do() {
    let shell = Shell::new();
    let data = shell.path().join("data");
    unpack(&data);
    let log = data.join("wal/1/00000000000000000000.log");
    let mut bytes = std::fs::read(&log).unwrap();
    // The header begins with eight bytes of magic and the version.
    assert_eq!(bytes[8..10], [0, 1]);
    bytes[9] = 2;
    let checksum = crc32(&bytes[..32]).to_be_bytes();
    bytes[32..36].copy_from_slice(&checksum);
    std::fs::write(&log, bytes).unwrap();
    let (status, stderr) = shell.fails("serve --listen 127.0.0.1:0");
    assert_eq!(status, 1);
    assert!(stderr.contains("newer") || stderr.contains("version 2"), "{stderr}");
}
