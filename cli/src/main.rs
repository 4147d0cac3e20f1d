//! The `anabranch` program.

use std::process::ExitCode;

use anabranch_client::Launcher;

/// Large buffers are used again rather than given back and asked for anew, which a join does thousands of times.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Where the program's own path is not known, the name leads to it as it led here.
    let program = std::env::current_exe().unwrap_or_else(|_| "anabranch".into());
    ExitCode::from(anabranch_cli::run(std::env::args_os(), Launcher::new(program)))
}
