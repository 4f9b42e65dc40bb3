//! `apply`: the plan as a diff.

use std::fmt::Write as _;

use chancery_proto::v1::{ApplyResponse, Change, change::Action};

use super::{
    View,
    text::{count, printable},
    when,
};

/// The plan, as a diff: `+` to make, `~` to change, `-` to delete.
pub(crate) fn plan(plan: &ApplyResponse, view: &View) -> String {
    let mut page = String::new();
    for change in &plan.changes {
        page.push_str(&one_change(change, view));
    }
    if !plan.kept.is_empty() {
        let names: Vec<_> = plan.kept.iter().map(|name| printable(name)).collect();
        let _ = writeln!(
            page,
            "Kept, though not in the files (--prune deletes them): {}",
            names.join(", ")
        );
    }
    page.push_str(&summary(plan));
    page.push('\n');
    page
}

fn one_change(change: &Change, view: &View) -> String {
    let (kind, name) = (printable(&change.kind), printable(&change.name));
    let order = match &change.possible_at {
        _ if !change.causes_order => String::new(),
        None => "  (will be ordered)".to_owned(),
        Some(at) => format!("  (will be ordered, possible {})", when::both(Some(at), view.now)),
    };
    let heading = |sign: &str| format!("{sign} {kind} {name}");
    let heading = match change.action() {
        Action::Create => view.paint.green(&heading("+")),
        Action::Update => view.paint.yellow(&heading("~")),
        Action::Delete => view.paint.red(&heading("-")),
        Action::Unspecified => heading("?"),
    };
    let mut text = format!("{heading}{order}\n");
    if !change.because.is_empty() {
        let _ = writeln!(text, "    not before: {}", printable(&change.because));
    }
    for detail in &change.details {
        let _ = writeln!(text, "    {}", printable(detail));
    }
    text
}

/// `2 to make, 1 to change, 0 to delete, 5 unchanged.`
fn summary(plan: &ApplyResponse) -> String {
    if plan.changes.is_empty() {
        return format!(
            "Nothing to change: {} as the files say.",
            count(plan.unchanged as usize, "object")
        );
    }
    let orders = plan.changes.iter().filter(|change| change.causes_order).count();
    let orders = if orders == 0 {
        String::new()
    } else {
        format!(" {} will follow.", count(orders, "order"))
    };
    format!(
        "{} to create, {} to change, {} to delete, {} unchanged.{orders}",
        number_of(plan, Action::Create),
        number_of(plan, Action::Update),
        number_of(plan, Action::Delete),
        plan.unchanged
    )
}

/// What to ask before the plan is carried out.
pub(crate) fn question(plan: &ApplyResponse) -> String {
    match number_of(plan, Action::Delete) {
        0 => "Apply this plan?".to_owned(),
        deletions => format!("Apply this plan, which deletes {}?", count(deletions, "object")),
    }
}

fn number_of(plan: &ApplyResponse, action: Action) -> usize {
    plan.changes.iter().filter(|change| change.action() == action).count()
}

#[cfg(test)]
mod tests {
    use insta::{assert_json_snapshot, assert_snapshot};

    use super::*;
    use crate::render::{Paint, fixtures, json};

    #[test]
    fn a_plan_reads_like_a_diff() {
        let changes = fixtures::plan();
        assert_snapshot!(plan(&changes, &fixtures::view()), @"
        + certificate mail  (will be ordered, possible in 5 min (2026-11-22 05:05:00Z))
            not before: 50 per 7d for example.org are used up
            identifiers: mail.example.org
            key_type: rsa-2048
        ~ issuer letsencrypt
            contacts: (none) -> mailto:ops@example.org
        - certificate old
        Kept, though not in the files (--prune deletes them): issuer zerossl
        1 to create, 1 to change, 1 to delete, 5 unchanged. 1 order will follow.
        ");
        assert_json_snapshot!(json::Plan::new(&changes, vec!["a warning".to_owned()]), @r#"
        {
          "plan_id": "9f86d081",
          "applied": false,
          "changes": [
            {
              "action": "create",
              "kind": "certificate",
              "name": "mail",
              "details": [
                "identifiers: mail.example.org",
                "key_type: rsa-2048"
              ],
              "causes_order": true,
              "possible_at": "2026-11-22T05:05:00Z",
              "because": "50 per 7d for example.org are used up"
            },
            {
              "action": "update",
              "kind": "issuer",
              "name": "letsencrypt",
              "details": [
                "contacts: (none) -> mailto:ops@example.org"
              ],
              "causes_order": false,
              "possible_at": null,
              "because": null
            },
            {
              "action": "delete",
              "kind": "certificate",
              "name": "old",
              "details": [],
              "causes_order": false,
              "possible_at": null,
              "because": null
            }
          ],
          "unchanged": 5,
          "kept": [
            "issuer zerossl"
          ],
          "warnings": [
            "a warning"
          ]
        }
        "#);
        assert_eq!(question(&changes), "Apply this plan, which deletes 1 object?");
    }

    #[test]
    fn signs_have_colours() {
        let view = View { paint: Paint::colored(), ..fixtures::view() };
        let page = plan(&fixtures::plan(), &view);
        for painted in ["\x1b[32m+ ", "\x1b[33m~ ", "\x1b[31m- "] {
            assert!(page.contains(painted), "{page:?}");
        }
    }

    #[test]
    fn nothing_to_change() {
        let plan_of = ApplyResponse { unchanged: 3, ..ApplyResponse::default() };
        assert_eq!(
            plan(&plan_of, &fixtures::view()),
            "Nothing to change: 3 objects as the files say.\n"
        );
    }
}
