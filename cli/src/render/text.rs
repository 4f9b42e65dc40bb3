//! Text from elsewhere, made harmless: messages of agents and CAs must not be able to
//! steer the operator's terminal.

use std::collections::BTreeMap;

/// `text` on one line, with what is not printable replaced.
pub(crate) fn printable(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join(" ").chars().map(visible).collect()
}

/// `text` with its lines, and what is not printable replaced.
pub(crate) fn printable_lines(text: &str) -> String {
    text.trim_end().chars().map(|c| if c == '\n' { c } else { visible(c) }).collect()
}

/// `text`, or a dash if there is none.
pub(crate) fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { printable(text) }
}

/// Labels as `key=value,key=value`.
pub(crate) fn labels(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    or_dash(&pairs.join(","))
}

/// `1 order`, `2 orders`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{s}")
}

/// `text` cut to `width` columns, so that a terminal does not wrap it.
pub(crate) fn cut(text: &str, width: u16) -> String {
    let width = usize::from(width);
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

fn visible(c: char) -> char {
    // Control characters, and those that turn the direction of writing.
    let hidden = c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if hidden { char::REPLACEMENT_CHARACTER } else { c }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_elsewhere_steers_the_terminal() {
        assert_eq!(printable("a\u{1b}[31m\r\n b\n\n"), "a\u{fffd}[31m b");
        assert_eq!(printable("\u{202e}gpj.exe"), "\u{fffd}gpj.exe");
        assert_eq!(printable_lines("a\u{7}\nb\n"), "a\u{fffd}\nb");
    }

    #[test]
    fn cut_text_fits() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdefg", 6), "abcde…");
    }
}
