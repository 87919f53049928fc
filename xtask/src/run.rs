//! Runs cargo as a person would, at the root of the workspace, and the programs that it builds. It will not capture
//! what they print.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

/// A command that did not succeed.
#[derive(Debug)]
pub(crate) struct Failed {
    command: String,
    why: Why,
}

#[derive(Debug)]
enum Why {
    Ended(ExitStatus),
    NotStarted(std::io::Error),
    Missing,
}

impl Failed {
    /// Something that the machine lacks, with the way out.
    pub(crate) fn missing(what: &str) -> Self {
        Self { command: what.to_owned(), why: Why::Missing }
    }

    /// The status that the command ended with, 2 where something is missing, or 1.
    pub(crate) fn exit_code(&self) -> ExitCode {
        let code = match &self.why {
            Why::Ended(status) => status.code().and_then(|code| u8::try_from(code).ok()),
            Why::NotStarted(_) => None,
            Why::Missing => Some(2),
        };
        ExitCode::from(code.unwrap_or(1))
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Why::Ended(status) => write!(f, "`{}` failed ({status})", self.command),
            Why::NotStarted(error) => write!(f, "`{}` could not be started: {error}", self.command),
            Why::Missing => f.write_str(&self.command),
        }
    }
}

/// Runs `cargo ARGS` with more of an environment, to its end.
pub(crate) fn cargo(args: &[&str], environment: &[(&str, &str)]) -> Result<(), Failed> {
    // The cargo that runs us, so that a `+toolchain` holds for all that we start.
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).envs(environment.iter().copied());
    to_its_end(command, format!("cargo {}", args.join(" ")))
}

/// Builds the programs `lab` and `supple` in `profile` (`dev` or `release`), in one go: what both need is built once.
pub(crate) fn build(profile: &str) -> Result<Built, Failed> {
    cargo(&["build", "--locked", "--package", "lab", "--package", "supple", "--profile", profile], &[])?;
    let folder = if profile == "dev" { "debug" } else { profile };
    // We were built in the same place, wherever cargo is told that it should be: TARGET/debug/xtask.
    let target = env::current_exe().ok().and_then(|own| Some(own.parent()?.parent()?.to_owned()));
    let target = target
        .ok_or_else(|| Failed::missing("where cargo builds cannot be told from this program's path"))?;
    Ok(Built { folder: target.join(folder) })
}

/// Where what was built lies.
#[derive(Debug)]
pub(crate) struct Built {
    folder: PathBuf,
}

impl Built {
    /// Runs `lab ARGS` to its end.
    pub(crate) fn lab(&self, args: &[&str]) -> Result<(), Failed> {
        let mut command = Command::new(self.folder.join("lab"));
        command.args(args);
        to_its_end(command, format!("lab {}", args.join(" ")))
    }

    /// The path of `supple`.
    pub(crate) fn supple(&self) -> String {
        self.folder.join("supple").display().to_string()
    }
}

fn to_its_end(mut command: Command, shown: String) -> Result<(), Failed> {
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    let failed = |why| Failed { command: shown, why };
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(failed(Why::Ended(status))),
        Err(error) => Err(failed(Why::NotStarted(error))),
    }
}
