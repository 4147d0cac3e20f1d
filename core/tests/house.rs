//! Holds the import arrows between the crates (see `ARCHITECTURE.md`), and which of them know the wire's types.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

const PREFIX: &str = "anabranch-";

/// Whom each crate may import; `bench` may import anything and is imported by nothing.
const ARROWS: [(&str, &[&str]); 12] = [
    ("core", &[]),
    ("proto", &[]),
    ("versioning", &["core"]),
    ("validation", &["core"]),
    ("online-store", &["core"]),
    ("registry", &["core", "versioning"]),
    ("offline-store", &["core", "versioning"]),
    ("ingest", &["core", "versioning", "registry", "validation", "online-store", "offline-store"]),
    ("server", &["core", "versioning", "registry", "validation", "online-store", "offline-store", "ingest", "proto"]),
    ("client", &["core", "proto"]),
    ("cli", &["core", "server", "client"]),
    ("python", &["client", "cli"]),
];

/// The only crates that may know tonic and prost.
const WIRE: [&str; 3] = ["proto", "server", "client"];

/// For each crate of ours: what it imports outside of its tests.
fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = MetadataCommand::new().no_deps().exec().unwrap();
    let packages = metadata.packages.iter().map(|package| {
        let normal = package.dependencies.iter().filter(|dependency| dependency.kind != DependencyKind::Development);
        (package.name.to_string(), normal.map(|dependency| dependency.name.clone()).collect())
    });
    packages.collect()
}

#[test]
fn crates_import_only_along_the_arrows() {
    let arrows: BTreeMap<_, _> = ARROWS.into_iter().collect();
    for (package, dependencies) in imports() {
        let name = package.strip_prefix(PREFIX).unwrap_or_else(|| panic!("{package} does not begin with {PREFIX}"));
        if name == "bench" {
            continue;
        }
        let allowed = arrows.get(name).unwrap_or_else(|| panic!("{package} has no row in ARROWS"));
        for dependency in dependencies.iter().filter_map(|dependency| dependency.strip_prefix(PREFIX)) {
            assert!(allowed.contains(&dependency), "{name} may not import {dependency}: see ARCHITECTURE.md");
        }
    }
}

#[test]
fn only_the_faces_know_the_wire() {
    for (package, dependencies) in imports() {
        let name = package.strip_prefix(PREFIX).unwrap();
        if WIRE.contains(&name) {
            continue;
        }
        for dependency in dependencies {
            let wire = ["tonic", "prost", "arrow-flight"].iter().any(|wire| dependency == *wire || dependency.starts_with(&format!("{wire}-")));
            assert!(!wire, "{name} may not import {dependency}: only {WIRE:?} speak the wire");
        }
    }
}
