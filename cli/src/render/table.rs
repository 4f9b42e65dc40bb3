//! Tables without borders, and lists of labelled facts.

use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};

use super::View;

/// A table with a header. Where the width is limited, the cells of the columns
/// `flexible` wrap; the others stay whole.
pub(crate) fn table(
    view: &View,
    header: &[&str],
    flexible: &[usize],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let mut table = bare(view);
    table.set_header(header.iter().copied());
    table.add_rows(rows);
    finish(table, flexible)
}

/// `Label  value`, one a line; values wrap below themselves.
pub(crate) fn facts<'a>(view: &View, facts: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let mut table = bare(view);
    table.add_rows(facts.into_iter().map(|(label, value)| vec![label.to_owned(), value]));
    finish(table, &[1])
}

/// A heading and what stands below it.
pub(crate) fn section(view: &View, heading: &str, body: &str) -> String {
    format!("\n{}\n{body}\n", view.paint.bold(heading))
}

fn bare(view: &View) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if let Some(width) = view.width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    table
}

/// Two spaces between columns, none before the first.
fn finish(mut table: Table, flexible: &[usize]) -> String {
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if !flexible.contains(&index) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    table.trim_fmt()
}
