//! What a CA means when it says "too many".
//!
//! RFC 8555 section 6.6 has one error type for all rate limits. What is meant decides who
//! has to wait: all, those of one domain, or this one order. Let's Encrypt says it in words that have stood
//! for years, and with the place in its documentation; whoever says nothing known is taken to mean this order.

use chancery_shared::identifier::Identifier;
use http::StatusCode;
use instant_acme::Problem;

/// What a CA refuses for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refuses {
    /// Everything.
    Requests,
    /// New orders of this account.
    Orders,
    /// Certificates of a registered domain.
    Domain(String),
    /// Certificates for exactly these identifiers.
    Set,
    /// Orders for an identifier that was not validated too often.
    Failed(Identifier),
    /// This order, for all we know.
    This,
}

impl Refuses {
    /// What a 429 or 503 with this body refuses. A CA that is not available is so for everything; and
    /// a page that is no problem document comes from a gateway in front of the CA, which
    /// knows nothing of orders.
    pub fn of_answer(status: StatusCode, body: &[u8]) -> Self {
        if status == StatusCode::SERVICE_UNAVAILABLE {
            return Self::Requests;
        }
        serde_json::from_slice::<Problem>(body).map_or(Self::Requests, |problem| Self::of(&problem))
    }

    /// What a problem document refuses.
    pub(super) fn of(problem: &Problem) -> Self {
        let kind = problem.r#type.as_deref().unwrap_or_default();
        if !kind.ends_with(":rateLimited") {
            return Self::Requests;
        }
        let detail = problem.detail.as_deref().unwrap_or_default();
        let about = |mark: &str| detail.contains(mark);
        if about("#new-orders-per-account") || about("too many new orders") {
            return Self::Orders;
        }
        if about("exact set of") {
            return Self::Set;
        }
        let quoted = detail.split('"').nth(1).and_then(|name| name.parse::<Identifier>().ok());
        match quoted {
            Some(name) if about("too many certificates") => {
                Self::Domain(name.as_str().trim_start_matches("*.").to_owned())
            }
            Some(name) if about("failed authorizations") => Self::Failed(name),
            _ if about("service busy") || about("Service busy") || about("overall") => {
                Self::Requests
            }
            _ => Self::This,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(detail: &str) -> Refuses {
        let body = serde_json::json!({
            "type": "urn:ietf:params:acme:error:rateLimited", "detail": detail,
        });
        Refuses::of_answer(StatusCode::TOO_MANY_REQUESTS, body.to_string().as_bytes())
    }

    #[test]
    fn each_limit_holds_back_what_it_is_for() {
        let cases = [
            (
                "too many new orders (300) from this account in the last 3h0m0s, retry after \
                 2026-11-22 05:00:00 UTC: see https://ca.example/docs/rate-limits/#new-orders-per-account",
                Refuses::Orders,
            ),
            (
                "too many certificates (50) already issued for \"example.org\" in the last \
                 168h0m0s, retry after 2026-11-22 05:00:00 UTC: see https://ca.example/docs/",
                Refuses::Domain("example.org".to_owned()),
            ),
            (
                "too many certificates (5) already issued for this exact set of identifiers in \
                 the last 168h0m0s, retry after 2026-11-22 05:00:00 UTC",
                Refuses::Set,
            ),
            (
                "too many failed authorizations (5) for \"www.example.org\" in the last 1h0m0s",
                Refuses::Failed("www.example.org".parse().unwrap()),
            ),
            ("Service busy; retry later.", Refuses::Requests),
            ("not today", Refuses::This),
        ];
        for (detail, refuses) in cases {
            assert_eq!(limited(detail), refuses, "{detail}");
        }
    }

    #[test]
    fn a_gateway_means_everything() {
        let of_answer = |body: &[u8]| Refuses::of_answer(StatusCode::TOO_MANY_REQUESTS, body);
        assert_eq!(of_answer(b"<html>"), Refuses::Requests);
        let body =
            br#"{"type":"urn:ietf:params:acme:error:serverInternal","detail":"maintenance"}"#;
        assert_eq!(of_answer(body), Refuses::Requests);
        let body = br#"{"type":"urn:ietf:params:acme:error:rateLimited","detail":"busy"}"#;
        assert_eq!(Refuses::of_answer(StatusCode::SERVICE_UNAVAILABLE, body), Refuses::Requests);
    }
}
