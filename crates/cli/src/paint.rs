//! The few styles that Supple prints in. Whether they reach the reader is decided by the stream ([`crate::screen`]).

use anstyle::{AnsiColor, Style};

/// As the terminal has it.
pub(crate) const PLAIN: Style = Style::new();
/// Names and headings.
pub(crate) const BOLD: Style = Style::new().bold();
/// What may be skipped at a first reading.
pub(crate) const DIM: Style = Style::new().dimmed();
/// What is well.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default().bold();
/// What needs a look.
pub(crate) const WARN: Style = AnsiColor::Yellow.on_default().bold();
/// What is wrong.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();

/// `text` in `style`.
pub(crate) fn paint(style: Style, text: &str) -> String {
    if style == PLAIN { text.to_owned() } else { format!("{style}{text}{style:#}") }
}
