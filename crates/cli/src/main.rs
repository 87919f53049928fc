//! The program users run: `supple list | doctor | observe | plan | apply | why | ...`.
//!
//! It reads the command line, calls the one command and prints how it ended. What a resize is and whether it is done
//! is decided in `scale` and `drive`.

mod address;
mod apply;
mod args;
#[cfg(feature = "libvirt")]
mod connect;
mod device;
mod doctor;
mod drift;
mod driver;
#[cfg(test)]
mod example;
mod failure;
mod file;
mod get;
mod guest;
#[cfg(feature = "libvirt")]
mod kept;
#[cfg(feature = "libvirt")]
mod list;
mod manual;
mod observe;
mod paint;
mod plan;
#[cfg(feature = "libvirt")]
mod prepare;
#[cfg(feature = "libvirt")]
mod prepared;
mod progress;
mod reconcile;
mod screen;
mod show;
#[cfg(feature = "libvirt")]
mod shut_off;
mod table;
mod target;
mod why;
mod wire;
#[cfg(not(feature = "libvirt"))]
mod without;
mod words;

use clap::Parser;
use std::process::ExitCode;

use args::{Cli, Command, Guest};
use failure::Failure;
#[cfg(not(feature = "libvirt"))]
use without::{list, prepare};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return bad_usage(&error),
    };
    let Cli { mut command, connect } = cli;
    if let Err(error) = command.connect(connect.as_deref()) {
        return end(&Failure::bad_input(error.to_string()), asks_for_json());
    }
    let (json, ended) = match command {
        Command::List(output) => (output.json, list::run(connect.as_deref(), &output)),
        Command::Doctor(asked) => (asked.output.json, doctor::run(&asked, connect.as_deref())),
        Command::Observe(machine) => (machine.output.json, observe::run(&machine)),
        Command::Get { machine, format } => (machine.output.json, get::run(&machine, format)),
        Command::Plan(resize) => (resize.output.json, resize.read().and_then(|asked| plan::run(&asked))),
        Command::Apply { resize, yes, live_only } => {
            (resize.output.json, resize.read().and_then(|asked| apply::run(&asked, yes, live_only)))
        }
        Command::Reconcile { machine, yes } => (machine.output.json, reconcile::run(machine, yes)),
        Command::Why { vm, output } => (output.json, why::run(&vm, &output)),
        Command::Guest(Guest::UdevRule(output)) => (output.json, guest::udev_rule(&output)),
        Command::Guest(Guest::Setup(machine)) => (machine.output.json, guest::setup(&machine)),
        Command::Prepare(asked) => (asked.output.json, prepare::run(&asked)),
        Command::DeviceXml(asked) => (asked.output.json, device::run(&asked)),
        Command::Completions { shell } => (false, manual::completions(shell)),
        Command::Man { dir } => (false, manual::pages(dir.as_deref())),
    };
    match ended {
        Ok(status) => ExitCode::from(status),
        Err(failure) => end(&failure, json),
    }
}

fn end(failure: &Failure, json: bool) -> ExitCode {
    if json {
        screen::say(&failure.document().render());
    } else {
        screen::warn(&failure.text(screen::columns()));
    }
    ExitCode::from(failure.status())
}

fn asks_for_json() -> bool {
    std::env::args_os().any(|word| word == "--json")
}

/// Help and the version are no errors. A bad command line is told as JSON where `--json` is on it.
fn bad_usage(error: &clap::Error) -> ExitCode {
    let json = asks_for_json();
    if json && error.use_stderr() {
        return end(&Failure::Usage(error.to_string()), true);
    }
    // Fails only where nobody reads it.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(failure::UNCHANGED))
}
