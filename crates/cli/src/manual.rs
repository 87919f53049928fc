//! `supple completions` and `supple man`: made from the same definition as the command line itself.
//!
//! A page's last sections are the ones below a command's help (`Examples:`, `Sizes:`), whose columns are laid out anew:
//! a terminal of 80 columns would tear them. It will not say anything that `--help` does not.

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use std::path::Path;
use std::{fs, io};

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
    let mut supple = Cli::command().disable_help_subcommand(true);
    supple.build();
    let Some(dir) = dir else {
        let page = page(&supple).expect("a page is written to memory");
        screen::say(&String::from_utf8_lossy(&page));
        return Ok(DONE);
    };
    let written = fs::create_dir_all(dir).and_then(|()| write(&supple, dir));
    written.map_err(|source| Failure::Write { path: dir.to_owned(), source })?;
    Ok(DONE)
}

/// The pages of a command and of those below it.
fn write(command: &Command, dir: &Path) -> io::Result<()> {
    command.get_subcommands().try_for_each(|below| write(below, dir))?;
    fs::write(dir.join(Man::new(command.clone()).get_filename()), page(command)?)
}

fn page(command: &Command) -> io::Result<Vec<u8>> {
    let man = Man::new(command.clone()).source(concat!("supple ", env!("CARGO_PKG_VERSION")));
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let below = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    for section in below.split("\n\n").filter(|section| !section.is_empty()) {
        rendered(section).to_writer(&mut page)?;
    }
    if command.get_version().is_some() {
        man.render_version_section(&mut page)?;
    }
    Ok(page)
}

/// What stands below a heading.
#[derive(Debug, PartialEq)]
enum Row {
    /// Words and what they mean.
    Meaning(String, String),
    /// A line that speaks for itself.
    Line(String),
}

fn rendered(section: &str) -> Roff {
    let (heading, text) = section.split_once('\n').unwrap_or((section, ""));
    let heading = heading.trim_end_matches(':');
    let mut roff = Roff::default();
    roff.control("SH", [heading.to_uppercase().as_str()]);
    // Commands to copy stay as they are; sentences are filled.
    let literal = heading == "Examples";
    if literal {
        roff.control("nf", []);
    }
    let mut after_meaning = false;
    for row in rows(text) {
        match row {
            Row::Meaning(words, meaning) => {
                roff.control("TP", []).text([bold(words)]).text([roman(meaning)]);
                after_meaning = true;
            }
            Row::Line(line) => {
                if after_meaning {
                    roff.control("PP", []);
                }
                roff.text([roman(line)]);
                after_meaning = false;
            }
        }
    }
    if literal {
        roff.control("fi", []);
    }
    roff
}

/// Reads lines that are indented by two, with two blanks or more between words and their meaning; a line that is indented
/// by more goes on with the meaning before it.
fn rows(text: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    for line in text.lines() {
        let body = line.trim_start();
        let goes_on = line.len() - body.len() > 2;
        let row = match (rows.pop(), body.split_once("  ")) {
            (Some(Row::Meaning(words, meaning)), _) if goes_on => {
                Row::Meaning(words, format!("{meaning} {body}"))
            }
            (Some(Row::Line(words)), _) if goes_on => Row::Meaning(words, body.to_owned()),
            (before, apart) => {
                rows.extend(before);
                match apart {
                    Some((words, meaning)) => Row::Meaning(words.to_owned(), meaning.trim_start().to_owned()),
                    None => Row::Line(body.to_owned()),
                }
            }
        };
        rows.push(row);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_become_words_and_their_meaning() {
        let text = "  web1, or its uuid           a machine of libvirt's: of --connect, else\n\
                    \x20                             the host's\n\
                    \x20 --disk-iops vda=read:500\n\
                    \x20                                        apart for reads\n\
                    \x20 `none` lifts a limit.";
        let meaning = |words: &str, meaning: &str| Row::Meaning(words.to_owned(), meaning.to_owned());
        let expected = [
            meaning("web1, or its uuid", "a machine of libvirt's: of --connect, else the host's"),
            meaning("--disk-iops vda=read:500", "apart for reads"),
            Row::Line("`none` lifts a limit.".to_owned()),
        ];
        assert_eq!(rows(text), expected);
    }

    #[test]
    fn each_heading_below_the_help_is_a_section_of_its_own() {
        let supple = Cli::command();
        let apply = supple.find_subcommand("apply").expect("a command");
        let page = String::from_utf8(page(apply).expect("written to memory")).expect("text");
        for heading in ["EXAMPLES", "MACHINES", "SIZES", "LIMITS", "\"EXIT STATUS\""] {
            assert!(page.contains(&format!("\n.SH {heading}\n")), "{heading}: {page}");
        }
        assert!(!page.contains("EXTRA"), "{page}");
    }
}
