//! Tables that fit the reader's width: columns shrink and their texts wrap; nothing is cut off.

use anstyle::Style;

use crate::paint::{BOLD, PLAIN, paint};
use crate::words::{clean, width, wrap};

/// Columns between two columns.
const GAP: usize = 2;
/// A column that can wrap is never narrower than this.
const NARROWEST: usize = 10;

/// One cell: lines in one style. Safe to print whatever its text was.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cell {
    lines: Vec<String>,
    style: Style,
}

impl Cell {
    /// A cell with one line in `style`, which wraps where it must.
    pub(crate) fn new(text: &str, style: Style) -> Cell {
        Cell { lines: vec![clean(text)], style }
    }

    /// The same with a further line below.
    pub(crate) fn line(mut self, text: &str) -> Cell {
        self.lines.push(clean(text));
        self
    }

    /// The same, with `text` as its first line where it has none, else as a further line.
    pub(crate) fn or_line(mut self, text: &str) -> Cell {
        self.lines.retain(|line| !line.is_empty());
        self.line(text)
    }

    /// The same, set in by two columns.
    pub(crate) fn indent(mut self) -> Cell {
        for line in &mut self.lines {
            line.insert_str(0, "  ");
        }
        self
    }

    fn widest(&self) -> usize {
        self.lines.iter().map(|line| width(line)).max().unwrap_or(0)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Cell {
        Cell::new(text, PLAIN)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Cell {
        Cell::new(&text, PLAIN)
    }
}

/// A column's title and whether its texts may wrap.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    pub(crate) title: &'static str,
    pub(crate) wraps: bool,
}

#[derive(Debug, Clone)]
enum Row {
    Cells(Vec<Cell>),
    Heading(String),
    Blank,
}

/// A table.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Row>,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new(columns: &[Column]) -> Table {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row with a cell for each column.
    pub(crate) fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        assert_eq!(N, self.columns.len(), "a cell for each column");
        self.rows.push(Row::Cells(cells.into()));
    }

    /// Adds a line across all columns, printed as it is.
    pub(crate) fn heading(&mut self, line: String) {
        self.rows.push(Row::Heading(line));
    }

    /// Adds an empty line.
    pub(crate) fn blank(&mut self) {
        self.rows.push(Row::Blank);
    }

    /// The table in `room` columns, each line ended. Wider only where its fixed columns alone are.
    pub(crate) fn render(&self, room: usize) -> String {
        let widths = self.widths(room);
        let titles: Vec<Cell> = self.columns.iter().map(|c| Cell::new(c.title, BOLD)).collect();
        let mut out = String::new();
        if self.columns.iter().any(|c| !c.title.is_empty()) {
            push_row(&mut out, &titles, &widths);
        }
        for row in &self.rows {
            match row {
                Row::Cells(cells) => push_row(&mut out, cells, &widths),
                Row::Heading(line) => {
                    out.push_str(line);
                    out.push('\n');
                }
                Row::Blank => out.push('\n'),
            }
        }
        out
    }

    /// The width of each column: as wide as its widest text, or, where that is too much in all, the wrapping columns
    /// share what the others leave, and only the widest are made narrower.
    fn widths(&self, room: usize) -> Vec<usize> {
        let mut natural: Vec<usize> = self.columns.iter().map(|c| width(c.title)).collect();
        for row in &self.rows {
            let Row::Cells(cells) = row else { continue };
            for (widest, cell) in natural.iter_mut().zip(cells) {
                *widest = (*widest).max(cell.widest());
            }
        }
        let gaps = GAP * self.columns.len().saturating_sub(1);
        let fixed: usize = self.columns.iter().zip(&natural).filter(|(c, _)| !c.wraps).map(|(_, w)| w).sum();
        let room = room.saturating_sub(gaps + fixed);
        let wrapping: Vec<usize> =
            self.columns.iter().zip(&natural).filter(|(c, _)| c.wraps).map(|(_, w)| *w).collect();
        let most = (NARROWEST..=room)
            .rev()
            .find(|most| wrapping.iter().map(|w| w.min(most)).sum::<usize>() <= room)
            .unwrap_or(NARROWEST);
        self.columns.iter().zip(natural).map(|(c, w)| if c.wraps { w.min(most) } else { w }).collect()
    }
}

fn push_row(out: &mut String, cells: &[Cell], widths: &[usize]) {
    let wrapped: Vec<Vec<String>> = cells
        .iter()
        .zip(widths)
        .map(|(cell, room)| cell.lines.iter().flat_map(|line| wrap(line, *room)).collect())
        .collect();
    let height = wrapped.iter().map(Vec::len).max().unwrap_or(0);
    for nth in 0..height {
        let mut column = 0;
        let mut written = 0;
        for ((cell, lines), room) in cells.iter().zip(&wrapped).zip(widths) {
            let text = lines.get(nth).map_or("", String::as_str);
            if !text.is_empty() {
                // Blanks are written before a text, never after it: no line ends in blanks.
                out.push_str(&" ".repeat(column - written));
                out.push_str(&paint(cell.style, text));
                written = column + width(text);
            }
            column += room + GAP;
        }
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] = [
        Column { title: "", wraps: false },
        Column { title: "step", wraps: true },
        Column { title: "undo", wraps: true },
    ];

    fn table() -> Table {
        let mut table = Table::new(&COLUMNS);
        table.row(["1".into(), "plug DIMM supple-dimm0 into slot 0".into(), "unplug it".into()]);
        table.blank();
        table.row(["12".into(), Cell::from("online its blocks").line("all of them"), "".into()]);
        table
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn a_table_is_as_wide_as_its_texts_where_there_is_room() {
        let expected = "    step                                undo\n\
                        1   plug DIMM supple-dimm0 into slot 0  unplug it\n\
                        \n\
                        12  online its blocks\n    all of them\n";
        assert_eq!(plain(&table().render(200)), expected);
    }

    #[test]
    fn only_the_widest_columns_wrap() {
        let expected = "    step               undo\n\
                        1   plug DIMM          unplug it\n    supple-dimm0 into\n    slot 0\n\
                        \n\
                        12  online its blocks\n    all of them\n";
        assert_eq!(plain(&table().render(32)), expected);
    }

    #[test]
    fn no_line_is_wider_than_the_room_and_none_ends_in_blanks() {
        for room in 26..120 {
            for line in plain(&table().render(room)).lines() {
                assert!(width(line) <= room, "{room}: {line}");
                assert_eq!(line, line.trim_end(), "{room}");
            }
        }
    }

    #[test]
    fn a_room_too_narrow_still_shows_everything() {
        let shown = plain(&table().render(3));
        for word in ["plug", "DIMM", "unplug", "online"] {
            assert!(shown.contains(word), "{shown}");
        }
    }
}
