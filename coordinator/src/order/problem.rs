//! What a CA says when it refuses, kept as it said it (RFC 8555 section 6.7), so that operators need not
//! look for the CA's words in logs.
//!
//! It comes from outside and goes into a record and to terminals: it is made printable, and no larger than
//! [`MOST`].

use instant_acme::Identifier;

use crate::{
    events::printable,
    record::{Problem, Subproblem},
};

/// What a failure keeps of it; `None` if the CA has sent no problem document.
pub(super) type Kept = Option<Box<Problem>>;

/// A problem document, to be kept.
pub(super) fn keep(problem: &instant_acme::Problem) -> Problem {
    let text = |text: &Option<String>, most| printable(text.as_deref().unwrap_or_default(), most);
    let mut kept = Problem {
        kind: text(&problem.r#type, MOST_TYPE),
        detail: text(&problem.detail, MOST_DETAIL),
        status: problem.status,
        ..Problem::default()
    };
    for subproblem in &problem.subproblems {
        let identifier = subproblem.identifier.as_ref().map(name_of).unwrap_or_default();
        let kind = subproblem.r#type.as_deref().unwrap_or_default();
        let detail = subproblem.detail.as_deref().unwrap_or_default();
        add(&mut kept, &identifier, kind, detail);
    }
    kept
}

/// The one in the body of an answer, if there is one.
pub(super) fn in_body(body: &[u8]) -> Kept {
    let problem: instant_acme::Problem = serde_json::from_slice(body).ok()?;
    (problem.r#type.is_some() || problem.detail.is_some()).then(|| Box::new(keep(&problem)))
}

/// Adds what is the matter with an identifier, if there is room for it.
pub(super) fn add(problem: &mut Problem, identifier: &str, kind: &str, detail: &str) {
    let subproblem = Subproblem {
        identifier: printable(identifier, MOST_IDENTIFIER),
        kind: printable(kind, MOST_TYPE),
        detail: printable(detail, MOST_DETAIL),
    };
    if problem.subproblems.contains(&subproblem) {
        return;
    }
    let size = |one: &Subproblem| one.identifier.len() + one.kind.len() + one.detail.len() + AROUND;
    let used: usize = problem.subproblems.iter().map(size).sum();
    if problem.kind.len() + problem.detail.len() + used + size(&subproblem) > MOST {
        problem.left_out = problem.left_out.saturating_add(1);
    } else {
        problem.subproblems.push(subproblem);
    }
}

fn name_of(identifier: &Identifier) -> String {
    match identifier {
        Identifier::Dns(name) => name.clone(),
        Identifier::Ip(address) => address.to_string(),
        other => format!("{other:?}"),
    }
}

/// Bytes of one problem document with all its subproblems.
const MOST: usize = 8 * 1024;
const MOST_TYPE: usize = 200;
const MOST_DETAIL: usize = 2000;
const MOST_IDENTIFIER: usize = 255;
/// Of a subproblem's encoding.
const AROUND: usize = 50;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_a_ca_says_is_kept_with_its_identifiers() {
        let body = br#"{
            "type": "urn:ietf:params:acme:error:malformed", "status": 403, "detail": "two names",
            "subproblems": [
                {"type": "urn:ietf:params:acme:error:caa", "detail": "CAA forbids it",
                 "identifier": {"type": "dns", "value": "a.example"}},
                {"detail": "no such domain"}
            ]}"#;
        let kept = in_body(body).unwrap();
        assert_eq!(kept.kind, "urn:ietf:params:acme:error:malformed");
        assert_eq!((kept.detail.as_str(), kept.status), ("two names", Some(403)));
        let identifiers: Vec<_> = kept.subproblems.iter().map(|one| &*one.identifier).collect();
        assert_eq!(identifiers, ["a.example", ""]);
        assert_eq!(kept.subproblems[0].detail, "CAA forbids it");
        assert_eq!(in_body(b"<html>busy</html>"), None);
        assert_eq!(in_body(b"{}"), None);
    }

    #[test]
    fn what_is_kept_is_bounded_and_printable() {
        let one = format!(r#"{{"detail":"\u001b[2J{}"}}"#, "x".repeat(5_000));
        let many = vec![one; 1]
            .into_iter()
            .chain((0..100).map(|i| format!(r#"{{"detail":"{i}{}"}}"#, "y".repeat(1_000))));
        let many = many.collect::<Vec<_>>().join(",");
        let body = format!(r#"{{"type":"t","detail":"d","subproblems":[{many}]}}"#);
        let kept = in_body(body.as_bytes()).unwrap();
        let size = serde_json::to_vec(&*kept).unwrap().len();
        assert!(size < MOST + 500, "{size}");
        assert_eq!(kept.subproblems.len() + kept.left_out as usize, 101);
        assert!(kept.left_out > 80, "{}", kept.left_out);
        assert!(!kept.subproblems[0].detail.contains('\u{1b}'));
    }
}
