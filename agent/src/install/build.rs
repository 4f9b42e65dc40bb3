//! The name of a build: a generation, and how often it was written.

use std::{fmt, str::FromStr};

use chancery_shared::number::Generation;
use serde::{Deserialize, Serialize};

/// `7`, or `7.1` when generation 7 was written again with another owner.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct BuildName {
    pub(crate) generation: Generation,
    pub(crate) revision: u32,
}

/// The text is not the name of a build.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not the name of a build")]
pub(crate) struct NotABuild(String);

impl fmt::Display for BuildName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.revision {
            0 => write!(f, "{}", self.generation),
            revision => write!(f, "{}.{revision}", self.generation),
        }
    }
}

impl fmt::Debug for BuildName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for BuildName {
    type Err = NotABuild;

    fn from_str(text: &str) -> Result<Self, NotABuild> {
        let parsed = || {
            let (generation, revision) = text.split_once('.').unwrap_or((text, "0"));
            let generation = Generation(generation.parse().ok()?);
            Some(Self { generation, revision: revision.parse().ok()? })
        };
        // One text a name: no "07", no "7.0", no "+7".
        parsed().filter(|name| name.to_string() == text).ok_or_else(|| NotABuild(text.to_owned()))
    }
}

impl TryFrom<String> for BuildName {
    type Error = NotABuild;

    fn try_from(text: String) -> Result<Self, NotABuild> {
        text.parse()
    }
}

impl From<BuildName> for String {
    fn from(name: BuildName) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_text() {
        for text in ["7", "7.1", "18446744073709551615.4294967295"] {
            assert_eq!(text.parse::<BuildName>().unwrap().to_string(), text);
        }
        for text in ["", "07", "7.0", "+7", "7.", ".7", "7.1.1", "x", ".tmp-7", "-1"] {
            assert!(text.parse::<BuildName>().is_err(), "{text}");
        }
    }

    #[test]
    fn names_sort_by_generation_then_revision() {
        let mut names: Vec<BuildName> =
            ["10", "9.2", "9", "10.1"].iter().map(|text| text.parse().unwrap()).collect();
        names.sort();
        assert_eq!(format!("{names:?}"), "[9, 9.2, 10, 10.1]");
    }
}
