//! Dependencies point one way: `proto <- shared <- {coordinator, agent, cli} <- tests`, and
//! what decides does no input or output and sees no clock.

use super::{File, Problem, source};

/// Every rule on who may use what.
pub(super) fn check(files: &[File]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for file in files {
        if let Some(member) = MEMBERS.iter().find(|member| file.path.starts_with(member.folder)) {
            problems.extend(direction(file, member));
        }
        if file.is_rust() && !file.test && PURE.iter().any(|room| room.has(&file.path)) {
            problems.extend(purity(file));
        }
    }
    problems
}

/// A member of the workspace, and which members it may use.
struct Member {
    folder: &'static str,
    may_use: &'static [&'static str],
}

const MEMBERS: &[Member] = &[
    Member { folder: "proto/", may_use: &[] },
    Member { folder: "shared/", may_use: &["proto"] },
    Member { folder: "coordinator/", may_use: &["proto", "shared"] },
    Member { folder: "agent/", may_use: &["proto", "shared"] },
    Member { folder: "cli/", may_use: &["proto", "shared"] },
    // Its end-to-end suites start the real programs; its simulation runs their code itself.
    Member { folder: "tests/", may_use: &["proto", "shared", "coordinator", "agent"] },
    Member { folder: "xtask/", may_use: &[] },
];

const NAMES: &[&str] = &["proto", "shared", "coordinator", "agent", "cli", "tests"];

fn direction(file: &File, member: &Member) -> Vec<Problem> {
    let manifest = file.path.ends_with("/Cargo.toml");
    if !manifest && !file.is_rust() {
        return Vec::new();
    }
    let mut problems = Vec::new();
    for name in NAMES {
        let own = member.folder.trim_end_matches('/') == *name;
        if own || member.may_use.contains(name) {
            continue;
        }
        let lines: Vec<usize> = if manifest {
            let key = format!("chancery-{name}");
            let is_key = |line: &str| {
                line.strip_prefix(&key).is_some_and(|rest| rest.starts_with(['.', ' ', '=']))
            };
            let lines = file.text.lines().enumerate().filter(|(_, line)| is_key(line));
            lines.map(|(index, _)| index + 1).collect()
        } else {
            let code = source::code(&file.text);
            let krate = format!("chancery_{name}");
            source::words(&code, &krate).map(|at| source::line_of(&code, at)).collect()
        };
        problems.extend(lines.into_iter().map(|line| Problem {
            path: file.path.clone(),
            line,
            message: format!("{} may not use {name}: dependencies point one way", member.folder),
        }));
    }
    problems
}

/// A module of which every file is pure: `path.rs`, and `path/…`.
struct Room(&'static str);

impl Room {
    fn has(&self, path: &str) -> bool {
        path.strip_prefix(self.0).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
    }
}

const PURE: &[Room] = &[
    Room("coordinator/src/plan"),
    Room("coordinator/src/election/lease"),
    Room("coordinator/src/order/stage"),
    Room("agent/src/plan"),
];

/// Words that do not stand in pure code, and what they would be used for.
const IMPURE: &[(&str, &str)] = &[
    ("tokio", "the runtime"),
    ("async", "the runtime"),
    ("Instant", "a clock"),
    ("SystemTime", "a clock"),
    ("Clock", "a clock"),
    ("SystemClock", "a clock"),
    ("SharedClock", "a clock"),
    ("ManualClock", "a clock"),
    ("Timestamp::now", "a clock"),
    ("Zoned::now", "a clock"),
    ("fs", "files"),
    ("File", "files"),
    ("OpenOptions", "files"),
    ("TcpListener", "the network"),
    ("TcpStream", "the network"),
    ("UdpSocket", "the network"),
    ("UnixListener", "the network"),
    ("UnixStream", "the network"),
    ("ToSocketAddrs", "the network"),
    ("rustix", "the operating system"),
    ("process", "other programs"),
    ("thread", "threads"),
];

fn purity(file: &File) -> Vec<Problem> {
    let code = source::code(&file.text);
    let code = source::without_tests(&code);
    let mut problems = Vec::new();
    for (word, what) in IMPURE {
        for at in source::words(code, word) {
            // As a module or type, not as somebody's field or variable.
            let path = code[..at].ends_with("::") || code[at + word.len()..].starts_with("::");
            let import = code[..at].rsplit(';').next().is_some_and(|statement| {
                source::words(statement, "use").next().is_some() && !statement.contains("fn ")
            });
            let named = word.starts_with(char::is_uppercase) || *word == "async";
            if path || import || named {
                problems.push(Problem {
                    path: file.path.clone(),
                    line: source::line_of(code, at),
                    message: format!(
                        "`{word}`: this module decides only, it has no use for {what}"
                    ),
                });
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        check(&[file(path, text)]).iter().map(|problem| problem.line).collect()
    }

    #[test]
    fn coordinator_and_agent_do_not_know_each_other() {
        assert_eq!(lines("coordinator/src/a.rs", "\nuse chancery_agent::plan;"), [2]);
        assert_eq!(lines("agent/src/a.rs", "fn f() { chancery_coordinator::g() }"), [1]);
        assert!(
            lines("agent/src/a.rs", "use chancery_shared::name; use chancery_agent::x;").is_empty()
        );
        assert!(
            lines(
                "agent/src/a.rs",
                "// chancery_coordinator\nconst A: &str = \"chancery_coordinator\";"
            )
            .is_empty()
        );
    }

    #[test]
    fn lower_members_do_not_know_higher_ones() {
        assert_eq!(lines("shared/src/lib.rs", "use chancery_cli::a;"), [1]);
        assert_eq!(lines("proto/build.rs", "use chancery_shared::a;"), [1]);
        assert_eq!(lines("tests/src/a.rs", "use chancery_cli::a;"), [1]);
        assert!(lines("tests/src/a.rs", "use chancery_coordinator::a;").is_empty());
        assert_eq!(lines("xtask/src/a.rs", "use chancery_shared::a;"), [1]);
    }

    #[test]
    fn manifests_follow_the_same_direction() {
        assert_eq!(
            lines("shared/Cargo.toml", "[dependencies]\nchancery-agent.workspace = true"),
            [2]
        );
        assert_eq!(lines("proto/Cargo.toml", "chancery-shared = { path = \"shared\" }"), [1]);
        assert!(
            lines("agent/Cargo.toml", "name = \"chancery-agent\"\nchancery-proto.workspace = true")
                .is_empty()
        );
    }

    #[test]
    fn what_decides_does_nothing_else() {
        for bad in [
            "use tokio::time::sleep;",
            "use std::{fs, path};",
            "use std::time::Instant;",
            "fn f() { std::time::SystemTime::now(); }",
            "fn f() { jiff::Timestamp::now(); }",
            "use chancery_shared::clock::Clock;",
            "use std::net::TcpStream;",
            "async fn f() {}",
            "fn f() { std::fs::read(x); }",
        ] {
            for path in [
                "coordinator/src/plan.rs",
                "coordinator/src/plan/renewal.rs",
                "coordinator/src/election/lease.rs",
                "coordinator/src/order/stage.rs",
                "agent/src/plan.rs",
            ] {
                assert!(!lines(path, bad).is_empty(), "{path}: {bad}");
            }
            assert!(lines("coordinator/src/scheduler.rs", bad).is_empty());
        }
        assert!(lines("coordinator/src/planner.rs", "use tokio::x;").is_empty());
    }

    #[test]
    fn plain_words_and_tests_are_left_alone() {
        let fine = "use std::net::IpAddr;\nuse chancery_shared::clock::Monotonic;\nfn f(process: u8, now: Timestamp) -> u8 { process }\n\
                    #[cfg(test)]\nmod tests { use std::fs; }\n";
        assert_eq!(lines("agent/src/plan.rs", fine), [0_usize; 0]);
    }
}
