//! `event list`.

use chancery_proto::v1::Event;
use chancery_shared::wire::from_timestamp;

use super::{
    View,
    table::table,
    text::{or_dash, printable},
    when,
};

/// The table of `chancery event list`, the newest first.
pub(crate) fn list(events: &[Event], view: &View) -> String {
    if events.is_empty() {
        return "No such events.\n".to_owned();
    }
    table(
        view,
        &["TIME", "KIND", "SUBJECT", "MESSAGE"],
        &[2, 3],
        events.iter().map(|event| {
            vec![
                from_timestamp(event.at.as_ref())
                    .map_or_else(|| "-".to_owned(), when::to_the_second),
                printable(&event.kind),
                or_dash(&event.subject),
                or_dash(&event.message),
            ]
        }),
    )
}

#[cfg(test)]
mod tests {
    use insta::{assert_json_snapshot, assert_snapshot};

    use super::*;
    use crate::render::{fixtures, json};

    #[test]
    fn long_messages_wrap_in_their_column() {
        let events = fixtures::events();
        let page = list(&events, &fixtures::view());
        assert!(page.lines().all(|line| line.chars().count() <= 80), "{page}");
        assert_snapshot!(page, @"
        TIME                  KIND                SUBJECT  MESSAGE
        2026-11-22 04:58:30Z  certificate.issued  www      generation 7 was issued by
                                                           R11, valid until
                                                           2026-12-22; an operator
                                                           asked for it
        2026-11-22 02:00:00Z  lease.acquired      -        node-1 leads
        ");
        assert_json_snapshot!(json::Events::from(events.as_slice()), @r#"
        {
          "events": [
            {
              "sequence": 42,
              "at": "2026-11-22T04:58:30Z",
              "kind": "certificate.issued",
              "subject": "www",
              "message": "generation 7 was issued by R11, valid until 2026-12-22; an operator asked for it",
              "node": "node-1",
              "epoch": 7
            },
            {
              "sequence": 41,
              "at": "2026-11-22T02:00:00Z",
              "kind": "lease.acquired",
              "subject": null,
              "message": "node-1 leads",
              "node": "node-1",
              "epoch": 7
            }
          ]
        }
        "#);
    }
}
