//! The `anabranch` command line: commands over the Rust client, and `serve`, which runs the server.
//!
//! In reading order: [`args`] (what can be said), [`connect`] (to which server), [`output`] (data to stdout, all else to stderr) and [`error`] (exit
//! statuses 0, 1, 2 and 75); then a file for each group of commands, with its arguments beside what they do, and `files` for rows in files.
//!
//! It is a library so that the Python package can bring it along: [`run`] takes how private servers are started.

mod args;
mod commands;
mod connect;
mod error;
mod files;
mod output;

use std::ffi::OsString;

use anabranch_client::Launcher;
use clap::Parser;

use crate::args::{Cli, Command};
use crate::error::Error;
use crate::output::Output;

/// Runs a command line, the program's name first, and gives its exit status: 0 done, 1 failed, 2 misused, 75 try again later.
///
/// `launcher` starts private servers, for `--data`.
pub fn run<A: Into<OsString> + Clone>(args: impl IntoIterator<Item = A>, launcher: Launcher) -> u8 {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too; where they cannot be printed there is nobody to tell.
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(error::FAILED);
        }
    };
    let mut output = Output::new(cli.global.json);
    match execute(cli, launcher, &mut output) {
        Ok(()) => 0,
        // Whoever reads our output has read enough.
        Err(Error::Output(source)) if source.kind() == std::io::ErrorKind::BrokenPipe => 0,
        Err(error) => {
            output.error(&error);
            error.exit_status()
        }
    }
}

fn execute(cli: Cli, launcher: Launcher, output: &mut Output) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Error::Runtime)?;
    let Cli { global, command } = cli;
    runtime.block_on(async {
        if let Command::Serve(serve) = command {
            return commands::serve::serve(&global, serve, output).await;
        }
        if let Command::Engine(engine) = command {
            return commands::engine::engine(&global, engine).await;
        }
        let Some(command) = commands::maintenance::execute(&global, command, output).await? else { return Ok(()) };
        let client = connect::connect(&global, &launcher).await?;
        commands::execute(command, &client, output).await
    })
}
