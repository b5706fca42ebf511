//! Tables: columns as wide as their cells, two spaces between them.

use comfy_table::presets::NOTHING;
use comfy_table::{Row, Table};

use crate::printable;

/// A table with these headings. Each row is one line, and its cells are made printable; [`render`] makes it text.
pub fn new<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(heading);
    for cells in rows {
        let mut row = Row::from(cells.iter().map(|cell| printable::line(cell)));
        row.max_height(1);
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// The lines of a table, each with its line end.
pub fn render(table: &Table) -> String {
    table.trim_fmt() + "\n"
}

/// The text of a table, however wide.
pub fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    render(&new(heading, rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_trimmed() {
        let rows = [["a", "long"], ["bcd", ""]].map(|row| row.map(String::from));
        assert_eq!(table(["X", "Y"], &rows), "X    Y\na    long\nbcd\n");
    }
}
