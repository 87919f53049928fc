//! Where text goes: colours only to those who want them, the width of the reader's terminal, and a reader that goes
//! away is no error. It formats nothing.

use std::io::{self, IsTerminal, Write};

/// The width for a reader that has none: a file, a pipe.
const PAGE: usize = 100;
/// Below this, lines are rather broken by the terminal than by Supple.
const NARROWEST: usize = 40;
/// Longer lines are hard to read.
const WIDEST: usize = 140;

/// Prints to standard output. That nobody reads it any more is not worth a word.
pub(crate) fn say(text: &str) {
    put(&mut anstream::stdout().lock(), text);
}

/// Prints to standard error.
pub(crate) fn warn(text: &str) {
    put(&mut anstream::stderr().lock(), text);
}

fn put(stream: &mut impl Write, text: &str) {
    // A run goes on when its reader goes away: it is on record, and `supple why` tells of it.
    let _: io::Result<()> = stream.write_all(text.as_bytes()).and_then(|()| stream.flush());
}

/// True where a person can answer a question: a terminal to read from and one to ask on.
pub(crate) fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// True where standard output is a terminal.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// How wide standard output is.
pub(crate) fn columns() -> usize {
    let told = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    let seen = terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| usize::from(width.0));
    seen.or(told).unwrap_or(PAGE).clamp(NARROWEST, WIDEST)
}

/// Asks a question that `y` or `yes` answers with yes; all else, an end of the input included, is no.
pub(crate) fn ask(question: &str) -> bool {
    warn(question);
    let mut answer = String::new();
    match io::stdin().read_line(&mut answer) {
        Ok(_) => matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"),
        Err(_) => false,
    }
}
