//! Files and functions stay small, as a ratchet: what is bigger is listed, and may only shrink.

use super::exceptions::{self, Exception};
use super::{File, Problem, source};

/// Lines of a file, without the tests at its end.
const FILE_LINES: usize = 500;
/// Lines of a function that have code in them.
const FUNCTION_LINES: usize = 70;

/// Compares every Rust file with the limits and with the list of exceptions.
pub(super) fn check(files: &[File], exceptions: &str) -> Vec<Problem> {
    let exceptions = match exceptions::parse(exceptions) {
        Ok(exceptions) => exceptions,
        Err(line) => {
            let message = "not of the form `WHAT LINES`".to_owned();
            return vec![Problem { path: exceptions::PATH.to_owned(), line, message }];
        }
    };
    let mut sizes = Vec::new();
    for file in files.iter().filter(|file| file.is_rust() && !file.test) {
        sizes.extend(measure(file));
    }
    let mut problems: Vec<Problem> =
        sizes.iter().filter_map(|size| size.problem(&exceptions)).collect();
    for exception in &exceptions {
        let now = sizes.iter().filter(|size| size.what == exception.what);
        let now = now.map(|size| size.lines).max();
        let message = match now {
            Some(lines) if lines < exception.lines => {
                format!("{} has shrunk: write {lines} here", exception.what)
            }
            None => format!("{} needs no exception: remove it here", exception.what),
            Some(_) => continue,
        };
        problems.push(Problem { path: exceptions::PATH.to_owned(), line: exception.at, message });
    }
    problems
}

/// Something bigger than its limit.
struct Size {
    what: String,
    path: String,
    line: usize,
    lines: usize,
    limit: usize,
}

impl Size {
    fn problem(&self, exceptions: &[Exception<'_>]) -> Option<Problem> {
        let allowed = exceptions
            .iter()
            .filter(|exception| exception.what == self.what)
            .map(|exception| exception.lines)
            .max()
            .unwrap_or(self.limit);
        (self.lines > allowed).then(|| Problem {
            path: self.path.clone(),
            line: self.line,
            message: format!(
                "{} has {} lines of at most {allowed}: it holds two things, give one its own room",
                self.what, self.lines
            ),
        })
    }
}

/// What in a file is bigger than its limit.
fn measure(file: &File) -> Vec<Size> {
    let code = source::code(&file.text);
    let code = source::without_tests(&code);
    let mut sizes = vec![Size {
        what: file.path.clone(),
        path: file.path.clone(),
        line: 0,
        lines: code.lines().count(),
        limit: FILE_LINES,
    }];
    for function in source::functions(code) {
        sizes.push(Size {
            what: format!("{}::{}", file.path, function.name),
            path: file.path.clone(),
            line: function.line,
            lines: function.lines,
            limit: FUNCTION_LINES,
        });
    }
    sizes.retain(|size| size.lines > size.limit);
    sizes
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;

    fn long_function(lines: usize) -> File {
        let body = "    work();\n".repeat(lines - 2);
        file("a/src/b.rs", &format!("fn f() {{\n{body}}}\n"))
    }

    #[test]
    fn a_long_function_is_a_problem_and_an_exception_allows_it() {
        assert!(check(&[long_function(70)], "").is_empty());
        let found = check(&[long_function(71)], "");
        assert_eq!((found.len(), found[0].line), (1, 1), "{found:?}");
        assert!(check(&[long_function(80)], "a/src/b.rs::f 80 # why").is_empty());
        assert_eq!(check(&[long_function(81)], "a/src/b.rs::f 80").len(), 1);
    }

    #[test]
    fn a_long_file_is_a_problem_but_its_tests_do_not_count() {
        let code = "const A: u8 = 1;\n".repeat(500);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{code}}}\n");
        assert!(check(&[file("a.rs", &format!("{code}{tests}"))], "").is_empty());
        let found = check(&[file("a.rs", &format!("{code}//\n{tests}"))], "");
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].message.contains("501 lines of at most 500"), "{found:?}");
    }

    #[test]
    fn exceptions_only_shrink() {
        let shrunk = check(&[long_function(75)], "a/src/b.rs::f 80");
        assert!(shrunk[0].message.contains("write 75 here"), "{shrunk:?}");
        let useless = check(&[long_function(70)], "\na/src/b.rs::f 80");
        assert_eq!(useless[0].line, 2);
        assert!(useless[0].message.contains("remove it"), "{useless:?}");
        assert_eq!(check(&[], "nonsense")[0].line, 1);
    }
}
