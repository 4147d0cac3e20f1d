//! The Python package: the Rust client through PyO3.
