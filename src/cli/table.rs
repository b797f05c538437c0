//! A table for terminals: columns as wide as their widest cell, a Chinese character counting two.

use unicode_width::UnicodeWidthStr;

use crate::text::printable;

/// The widths of the columns so far.
#[derive(Default)]
pub(super) struct Table(Vec<usize>);

impl Table {
    pub(super) fn measure(&mut self, row: &[String]) {
        self.0.resize(self.0.len().max(row.len()), 0);
        for (width, cell) in self.0.iter_mut().zip(row) {
            *width = (*width).max(printable(cell).width());
        }
    }

    /// One line, with control characters escaped.
    pub(super) fn line(&self, row: &[String]) -> String {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&self.0) {
            let cell = printable(cell);
            line.push_str(&cell);
            line.push_str(&" ".repeat(width.saturating_sub(cell.width()) + 2));
        }
        line.truncate(line.trim_end().len());
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chinese_and_escaped_cells_align() {
        let rows = [["a", "姓名", "x"], ["bb", "张三丰", "y"], ["c", "\u{1b}", ""]];
        let rows = rows.map(|row| row.map(str::to_owned));
        let mut table = Table::default();
        rows.iter().for_each(|row| table.measure(row));
        let lines = rows.map(|row| table.line(&row));
        assert_eq!(lines, ["a   姓名    x", "bb  张三丰  y", "c   \\u{1b}"]);
    }
}
