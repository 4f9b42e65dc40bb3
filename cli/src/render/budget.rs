//! `issuer budget`.

use std::fmt::Write as _;

use chancery_proto::v1::IssuerBudget;

use super::{
    View,
    table::{facts, section, table},
    text::printable,
    when,
};

/// The page of `chancery issuer budget`.
pub(crate) fn budgets(budgets: &[IssuerBudget], view: &View) -> String {
    if budgets.is_empty() {
        return "There are no issuers yet; declare some with chancery apply.\n".to_owned();
    }
    budgets.iter().map(|budget| page(budget, view)).collect::<Vec<_>>().join("\n")
}

fn page(budget: &IssuerBudget, view: &View) -> String {
    let counted = if budget.counted { "as declared" } else { "none: nothing is counted" };
    let rows = [
        ("Issuer", printable(&budget.issuer)),
        ("Limits", counted.to_owned()),
        ("Waiting", format!("{} certificates", budget.waiting)),
    ];
    let mut page = facts(view, rows);
    page.push('\n');
    if !budget.buckets.is_empty() {
        let mut left = table(
            view,
            &["LIMIT", "OF", "LEFT", "KEPT", "FULL"],
            &[1],
            budget.buckets.iter().map(|bucket| {
                vec![
                    printable(&bucket.limit),
                    printable(&bucket.about),
                    bucket.left.to_string(),
                    bucket.reserved.to_string(),
                    match &bucket.full_at {
                        Some(at) => when::both(Some(at), view.now),
                        None => "now".to_owned(),
                    },
                ]
            }),
        );
        if budget.more_buckets > 0 {
            let _ = write!(left, "\nand {} more", budget.more_buckets);
        }
        page.push_str(&section(view, "Left", &left));
    }
    let refused = budget.refused.iter().map(|refused| {
        let until = when::both(refused.until.as_ref(), view.now);
        format!("{} until {until}: {}", printable(&refused.about), printable(&refused.message))
    });
    lines(view, "Refused by the CA", refused, &mut page);
    let paused = budget.paused.iter().map(|paused| {
        let link = if paused.link.is_empty() {
            String::new()
        } else {
            format!("; unpause it at {}", printable(&paused.link))
        };
        format!("{}: {}{link}", printable(&paused.identifier), printable(&paused.message))
    });
    lines(view, "Paused by the CA", paused, &mut page);
    page
}

fn lines(view: &View, title: &str, lines: impl Iterator<Item = String>, page: &mut String) {
    let body = lines.collect::<Vec<_>>().join("\n");
    if !body.is_empty() {
        page.push_str(&section(view, title, &body));
    }
}

#[cfg(test)]
mod tests {
    use chancery_proto::v1::{BucketLeft, BucketRefused, IdentifierPaused};

    use super::*;
    use crate::render::{fixtures, json};

    #[test]
    fn all_that_holds_orders_back_is_told() {
        let budget = IssuerBudget {
            issuer: "letsencrypt".to_owned(),
            counted: true,
            buckets: vec![BucketLeft {
                bucket: "orders".to_owned(),
                about: "new orders".to_owned(),
                limit: "300 per 3h".to_owned(),
                left: 12,
                reserved: 30,
                full_at: None,
            }],
            more_buckets: 2,
            refused: vec![BucketRefused {
                bucket: "requests".to_owned(),
                about: "all requests".to_owned(),
                until: None,
                message: "being \u{1b}maintained".to_owned(),
            }],
            paused: vec![IdentifierPaused {
                identifier: "www.example.org".to_owned(),
                since: None,
                message: "too many failures".to_owned(),
                link: "https://ca.example/unpause".to_owned(),
            }],
            waiting: 7,
        };
        let page = budgets(std::slice::from_ref(&budget), &fixtures::view());
        for part in [
            "letsencrypt",
            "7 certificates",
            "300 per 3h",
            "new orders",
            "and 2 more",
            "all requests until",
            "unpause it at https://ca.example/unpause",
        ] {
            assert!(page.contains(part), "{part} is not in:\n{page}");
        }
        assert!(!page.contains('\u{1b}'), "{page}");
        let json = serde_json::to_value(json::Budgets::from(&[budget][..])).unwrap();
        assert_eq!(json["budgets"][0]["buckets"][0]["left"], 12);
        assert_eq!(json["budgets"][0]["paused"][0]["link"], "https://ca.example/unpause");
    }
}
