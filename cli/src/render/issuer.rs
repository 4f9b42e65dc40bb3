//! `issuer list`, `issuer show` and `issuer check`.

use chancery_proto::v1::{AccountDetail, IssuerCheck, IssuerDetail};

use super::{
    View,
    table::{facts, section, table},
    text::{or_dash, printable},
    when,
};

/// The table of `chancery issuer list`.
pub(crate) fn list(issuers: &[IssuerDetail], view: &View) -> String {
    if issuers.is_empty() {
        return "There are no issuers yet; declare some with chancery apply.\n".to_owned();
    }
    let body = table(
        view,
        &["NAME", "ACCOUNT", "CERTIFICATES", "ISSUED", "ORDERS", "DIRECTORY"],
        &[0, 5],
        issuers.iter().map(|issuer| {
            let account = issuer.account.as_ref().map(|account| account.state.as_str());
            vec![
                printable(&issuer.name),
                or_dash(account.unwrap_or_default()),
                issuer.certificates.to_string(),
                issuer.issued.to_string(),
                issuer.orders.to_string(),
                printable(&issuer.directory),
            ]
        }),
    );
    format!("{body}\n")
}

/// The page of `chancery issuer show`.
pub(crate) fn detail(issuer: &IssuerDetail, view: &View) -> String {
    let rows = [
        ("Name", printable(&issuer.name)),
        ("Directory", printable(&issuer.directory)),
        ("Contacts", or_dash(&issuer.contacts.join(", "))),
        ("Profile", or_dash(&issuer.profile)),
        ("Preferred chain", or_dash(&issuer.preferred_chain)),
        ("External account", or_dash(&issuer.external_account)),
        (
            "Certificates",
            format!("{}, of which it has issued {}", issuer.certificates, issuer.issued),
        ),
        ("Orders", issuer.orders.to_string()),
    ];
    let account = match &issuer.account {
        Some(account) => facts(view, account_facts(account, view)),
        None => "There is none yet; it is made for the first order.".to_owned(),
    };
    format!("{}\n{}", facts(view, rows), section(view, "Account", &account))
}

fn account_facts(account: &AccountDetail, view: &View) -> Vec<(&'static str, String)> {
    let mut rows = vec![
        ("State", printable(&account.state)),
        ("URL", or_dash(&account.url)),
        ("Contacts told", or_dash(&account.contacts.join(", "))),
        ("Bound to", or_dash(&account.bound)),
    ];
    if let Some(change) = &account.change {
        let what = format!(
            "{}, {}: asked for by {} {}",
            printable(&change.what),
            printable(&change.state),
            printable(&change.requested_by),
            when::both(change.requested_at.as_ref(), view.now)
        );
        rows.push(("Last change", what));
        if !change.message.is_empty() {
            rows.push(("The CA says", printable(&change.message)));
        }
    }
    rows
}

/// The page of `chancery issuer check`.
pub(crate) fn check(name: &str, check: &IssuerCheck, view: &View) -> String {
    let mut page = String::new();
    if let Some(took) = &check.took {
        let millis = took.seconds * 1000 + i64::from(took.nanos) / 1_000_000;
        let profiles: Vec<String> = check.profiles.keys().map(|name| printable(name)).collect();
        let bound = if check.external_account_required { "needed" } else { "not needed" };
        let rows = [
            ("Issuer", printable(name)),
            ("Answered", format!("in {millis} ms")),
            ("Profiles", or_dash(&profiles.join(", "))),
            ("External account", bound.to_owned()),
            ("CAA", or_dash(&check.caa_identities.join(", "))),
            ("Terms of service", or_dash(&check.terms_of_service)),
            ("Website", or_dash(&check.website)),
        ];
        page.push_str(&facts(view, rows));
        page.push('\n');
        let described = check.profiles.iter().filter(|(_, about)| !about.is_empty());
        let described: Vec<String> = described
            .map(|(name, about)| format!("{}: {}", printable(name), printable(about)))
            .collect();
        if !described.is_empty() {
            page.push_str(&section(view, "Profiles", &described.join("\n")));
        }
    }
    if !check.problems.is_empty() {
        let problems: Vec<String> =
            check.problems.iter().map(|problem| view.paint.red(&printable(problem))).collect();
        page.push_str(&section(view, "Problems", &problems.join("\n")));
    }
    page
}
