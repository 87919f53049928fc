//! `supple completions` and `supple man`: made from the same definition as the command line itself.

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;
use std::fs;
use std::path::Path;

use crate::args::Cli;
use crate::failure::{DONE, Failure};
use crate::screen;

/// Prints the completions of `shell`.
pub(crate) fn completions(shell: Shell) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "supple", &mut script);
    screen::say(&String::from_utf8_lossy(&script));
    Ok(DONE)
}

/// Prints the man page, or writes one page for each command into `dir`.
pub(crate) fn pages(dir: Option<&Path>) -> Result<u8, Failure> {
    let Some(dir) = dir else {
        let mut page = Vec::new();
        Man::new(Cli::command().disable_help_subcommand(true))
            .render(&mut page)
            .expect("a page is written to memory");
        screen::say(&String::from_utf8_lossy(&page));
        return Ok(DONE);
    };
    let write = || {
        fs::create_dir_all(dir)?;
        clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), dir)
    };
    write().map_err(|source| Failure::Write { path: dir.to_owned(), source })?;
    Ok(DONE)
}
