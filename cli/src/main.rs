//! `chancery`: what operators ask of a coordinator, on the command line.
//!
//! | module | holds |
//! |---|---|
//! | [`args`] | the command line |
//! | [`connect`] | the way to the coordinator's unix socket |
//! | [`files`] | desired state, read from TOML files and checked |
//! | [`commands`] | one module for each command: ask, then hand the answer to `render` |
//! | [`follow`] | pure: whether a renewal that one waits for has come to its end |
//! | [`render`] | pure: answers to text for people and JSON for programs |
//! | [`output`] | the only module that prints, and that asks |
//! | [`failure`] | what went wrong, in words, with its exit code |

mod args;
mod commands;
mod connect;
mod failure;
mod files;
mod follow;
mod output;
mod render;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let args = args::Args::parse();
    let output = output::Output::new(args.global.output, args.global.color);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return output
                .fail(&failure::Failure::failed(format!("the runtime cannot start: {error}")));
        }
    };
    match runtime.block_on(commands::run(&args, &output)) {
        Ok(exit) => exit.into(),
        Err(failure) => output.fail(&failure),
    }
}
