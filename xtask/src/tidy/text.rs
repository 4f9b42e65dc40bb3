//! Words that must not stand in the repository.

use super::{File, Problem, source};

/// Every rule on forbidden words.
pub(super) fn check(files: &[File]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for file in files {
        if file.is_rust() {
            let code = source::code(&file.text);
            problems.extend(find(file, &code, UNFINISHED));
        }
        // Written by cargo, which names its registry there.
        if file.path != "Cargo.lock" {
            problems.extend(find(file, &file.text, &elsewhere()));
        }
    }
    problems
}

/// In code: what may be written for an hour, but not kept.
const UNFINISHED: &[(&str, &str)] = &[
    ("todo!", "unfinished"),
    ("unimplemented!", "unfinished"),
    ("dbg!", "a leftover of a search for a fault"),
    ("#[ignore", "a test that does not run proves nothing"),
    ("allow(dead_code", "remove what is not used"),
];

/// In every file: what is only true on one machine or at one provider.
///
/// Put together from halves, because this file is checked too.
fn elsewhere() -> Vec<(&'static str, &'static str)> {
    let machine = "a path of one machine";
    let registry = "registries are configured on the machine, never named in the project";
    vec![
        (concat!("/wo", "rk/"), machine),
        (concat!("/ro", "ot/"), machine),
        (concat!("../sha", "red"), "a path out of the repository"),
        (concat!("crates", ".io"), registry),
        (concat!("deb.deb", "ian.org"), registry),
        (concat!("security.deb", "ian.org"), registry),
        (concat!("snapshot.deb", "ian.org"), registry),
        (concat!("py", "pi.org"), registry),
        (concat!("python", "hosted.org"), registry),
        (concat!("npm", "js.org"), registry),
        (concat!("proxy.go", "lang.org"), registry),
    ]
}

fn find(file: &File, text: &str, words: &[(&str, &str)]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (word, why) in words {
        for (at, _) in text.match_indices(word) {
            problems.push(Problem {
                path: file.path.clone(),
                line: source::line_of(text, at),
                message: format!("`{word}`: {why}"),
            });
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;

    #[test]
    fn every_unfinished_word_is_found_in_code_and_only_there() {
        for (word, _) in UNFINISHED {
            let found = check(&[file("a.rs", &format!("// {word}\nfn f() {{ {word} }}\n"))]);
            assert_eq!(found.len(), 1, "{word}");
            assert_eq!(found[0].line, 2, "{word}");
        }
    }

    #[test]
    fn every_foreign_word_is_found_in_every_file_but_the_lock_file() {
        for (word, _) in elsewhere() {
            let text = format!("\n# see {word}x\n");
            assert_eq!(check(&[file("docs/a.md", &text)])[0].line, 2, "{word}");
            assert!(check(&[file("Cargo.lock", &text)]).is_empty(), "{word}");
        }
    }
}
