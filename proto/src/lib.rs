//! The wire contract: `proto/anabranch/v1/anabranch.proto` and the code generated from it.
//!
//! The generated file is kept under version control, so that building needs no `protoc`; the test `generated_code_is_current` writes it anew and fails
//! where it was out of date.

/// Version 1 of the contract.
pub mod v1 {
    #![allow(missing_docs, unreachable_pub, clippy::all, reason = "generated; the contract is documented in the .proto file")]

    include!("generated/anabranch.v1.rs");
}

/// Names in the metadata of a gRPC status.
pub mod metadata {
    /// The error kind, as `anabranch_core::ErrorKind::name` spells it.
    pub const ERROR_KIND: &str = "anabranch-error-kind";
    /// Details as JSON bytes.
    pub const ERROR_DETAILS: &str = "anabranch-error-details-bin";
}
