//! Every error code that an operator can meet has a page in `docs/errors`.

use std::{fs, path::Path};

/// Checks the codes that `code()` of an error type gives. `source` is the file with that function.
pub(crate) fn check(source: &str) -> Vec<&str> {
    let codes = source.split_once("pub fn code(").unwrap().1.split_once("\n    }\n").unwrap().0;
    let codes: Vec<&str> = codes.split('"').skip(1).step_by(2).collect();
    let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors");
    let index = fs::read_to_string(pages.join("README.md")).unwrap();
    for code in &codes {
        assert!(pages.join(format!("{code}.md")).is_file(), "docs/errors/{code}.md is missing");
        assert!(index.contains(&format!("]({code}.md)")), "{code} is not in the index");
    }
    codes
}
