//! Runs cargo as a person would, at the root of the workspace. It will not capture what cargo prints.

use std::env;
use std::fmt;
use std::path::Path;
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
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    // The cargo that runs us, so that a `+toolchain` holds for all that we start.
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).envs(environment.iter().copied()).current_dir(root);
    let failed = |why| Failed { command: format!("cargo {}", args.join(" ")), why };
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(failed(Why::Ended(status))),
        Err(error) => Err(failed(Why::NotStarted(error))),
    }
}

/// Builds a package's program of the same name in `profile` (`dev` or `release`) and tells where it is.
pub(crate) fn program(package: &str, profile: &str) -> Result<String, Failed> {
    cargo(&["build", "--quiet", "--locked", "--package", package, "--profile", profile], &[])?;
    let target = env::var("CARGO_TARGET_DIR")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../target").to_owned());
    let folder = if profile == "dev" { "debug" } else { profile };
    Ok(format!("{target}/{folder}/{package}"))
}
