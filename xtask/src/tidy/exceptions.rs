//! The list of what is bigger than it should be. It may only shrink: an entry must say the
//! present size exactly, and goes when it is no longer needed.

/// Where the list stands, from the root of the repository.
pub(super) const PATH: &str = "xtask/tidy-exceptions.txt";

/// A file or function that is allowed to be of a certain size.
pub(super) struct Exception<'a> {
    /// `path` or `path::function`.
    pub(super) what: &'a str,
    pub(super) lines: usize,
    /// Where it stands in the list, from 1.
    pub(super) at: usize,
}

/// Reads `WHAT LINES`, one a line; `#` begins a comment. The error is the line that cannot be
/// read, from 1.
pub(super) fn parse(text: &str) -> Result<Vec<Exception<'_>>, usize> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let entry = line.split_once(' ').and_then(|(what, lines)| {
            Some(Exception { what, lines: lines.trim().parse().ok()?, at: index + 1 })
        });
        found.push(entry.ok_or(index + 1)?);
    }
    Ok(found)
}
