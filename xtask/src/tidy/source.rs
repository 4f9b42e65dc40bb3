//! Just enough understanding of Rust for the rules: which part of a file is code, which part
//! is tests, and where functions begin and end.

/// The text with comments, strings and character literals blanked out. Lines keep their
/// numbers.
pub(super) fn code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let taken = literal(rest, out.chars().next_back());
        let (blank, length) = match taken {
            Some(length) => (true, length),
            None => (false, first.len_utf8()),
        };
        let (now, later) = rest.split_at(length.min(rest.len()));
        if blank {
            out.extend(now.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        } else {
            out.push_str(now);
        }
        rest = later;
    }
    out
}

/// The code in front of the tests that stand at the end of a file. A module of tests in a file
/// of its own is declared in one line and ends nothing.
pub(super) fn without_tests(code: &str) -> &str {
    let mut from = 0;
    while let Some(found) = code[from..].find("#[cfg(test)]") {
        let at = from + found;
        let after = code[at + "#[cfg(test)]".len()..].trim_start();
        let after = after.strip_prefix("pub(crate) ").unwrap_or(after);
        let head = after.split(['{', ';']).next().unwrap_or_default();
        if after.starts_with("mod ") && after[head.len()..].starts_with('{') {
            return &code[..at];
        }
        from = at + 1;
    }
    code
}

/// Where the modules stand, as paths without `.rs`, that the file at `path` declares for tests
/// only.
pub(super) fn test_modules(path: &str, code: &str) -> Vec<String> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let folder = match name {
        "mod.rs" | "lib.rs" | "main.rs" => folder,
        _ => path.trim_end_matches(".rs"),
    };
    let after = code.split("#[cfg(test)]").skip(1).filter_map(|after| {
        let (declared, _) = after.split_once(';')?;
        let declared = declared.trim();
        let name = declared.strip_prefix("pub(crate) ").unwrap_or(declared).strip_prefix("mod ")?;
        name.chars().all(is_word).then(|| format!("{folder}/{name}"))
    });
    after.collect()
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) name: String,
    /// Of the word `fn`, from 1.
    pub(super) line: usize,
    /// Lines with code in them, from the word `fn` to the closing brace.
    pub(super) lines: usize,
}

/// The functions in text that went through [`code`].
pub(super) fn functions(code: &str) -> Vec<Function> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        if code[..at].chars().next_back().is_some_and(is_word) {
            continue;
        }
        let name: String =
            code[at + 3..].trim_start().chars().take_while(|c| is_word(*c)).collect();
        // A type such as `fn(u8)` has no name, a method of a trait may have no body.
        let Some(length) = body(&code[at..]) else { continue };
        if name.is_empty() {
            continue;
        }
        let lines = code[at..at + length].lines().filter(|line| !line.trim().is_empty()).count();
        found.push(Function { name, line: line_of(code, at), lines });
    }
    found
}

/// The number of the line, from 1, that has the byte at `at`.
pub(super) fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// Where a word stands by itself: not as a part of a longer one.
pub(super) fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        !code[..*at].chars().next_back().is_some_and(is_word)
            && !code[at + word.len()..].chars().next().is_some_and(is_word)
    })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// From `fn` to the end of its body; none when it ends with a semicolon.
fn body(code: &str) -> Option<usize> {
    let mut nested = 0_usize;
    let mut braces = 0_usize;
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' => nested += 1,
            ')' | ']' => nested = nested.checked_sub(1)?,
            ';' if nested == 0 && braces == 0 => return None,
            '{' => braces += 1,
            '}' => {
                braces = braces.checked_sub(1)?;
                if braces == 0 && nested == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

/// The length of the comment, string or character that begins here.
fn literal(text: &str, before: Option<char>) -> Option<usize> {
    let until = |end: &str, from: usize| {
        text[from..].find(end).map_or(text.len(), |at| from + at + end.len())
    };
    if text.starts_with("//") {
        // The line's end stays.
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if text.starts_with("/*") {
        return Some(block_comment(text));
    }
    if text.starts_with('"') {
        return Some(escaped(text, '"'));
    }
    if text.starts_with('r') && !before.is_some_and(|c| is_word(c) && c != 'b' && c != 'c') {
        let hashes = text[1..].chars().take_while(|c| *c == '#').count();
        if text[1 + hashes..].starts_with('"') {
            return Some(until(&format!("\"{}", "#".repeat(hashes)), 2 + hashes));
        }
    }
    if let Some(inside) = text.strip_prefix('\'') {
        let mut inside = inside.chars();
        return match (inside.next(), inside.next()) {
            (Some('\\'), _) => Some(escaped(text, '\'')),
            (Some(c), Some('\'')) => Some(2 + c.len_utf8()),
            // A lifetime.
            _ => None,
        };
    }
    None
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

fn escaped(text: &str, end: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == end => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_strings_and_characters_are_no_code() {
        let text = "a // x\n\"b{\" /* c /* d */ e */ f '\\'' 'g' r#\"h \" i\"# 'j: &'k str";
        let code = code(text);
        assert_eq!(code.split_whitespace().collect::<Vec<_>>(), ["a", "f", "'j:", "&'k", "str"]);
        assert_eq!(code.lines().count(), 2);
    }

    #[test]
    fn the_tail_of_tests_is_cut_off_but_not_a_single_helper() {
        let text = "#[cfg(test)]\nfn helper() {}\n#[cfg(test)]\nmod far;\nfn real() {}\n\
                    #[cfg(test)]\nmod tests {\n fn t() {}\n}\n";
        assert!(without_tests(text).ends_with("fn real() {}\n"));
    }

    #[test]
    fn functions_are_measured_without_comments() {
        let text = "trait T { fn without(&self); }\nfn one() {}\nasync fn two(\n    a: [u8; 2],\n) \
                    -> fn(u8) {\n    // why\n\n    if a {}\n}\n";
        assert_eq!(
            functions(&code(text)),
            [
                Function { name: "one".to_owned(), line: 2, lines: 1 },
                Function { name: "two".to_owned(), line: 3, lines: 5 },
            ]
        );
    }

    #[test]
    fn modules_for_tests_are_found_where_they_stand() {
        let code = "#[cfg(test)]\nmod tests;\n#[cfg(test)]\nfn one() {}\nmod real;\n\
                    #[cfg(test)]\npub(crate) mod suite;";
        assert_eq!(test_modules("a/src/mod.rs", code), ["a/src/tests", "a/src/suite"]);
        assert_eq!(test_modules("a/src/b.rs", code), ["a/src/b/tests", "a/src/b/suite"]);
    }

    #[test]
    fn words_are_whole() {
        assert_eq!(words("tokio::x my_tokio tokios", "tokio").count(), 1);
    }
}
