//! `seal show`.

use chancery_proto::v1::SealDetail;

use super::{
    View,
    table::{facts, table},
    text::printable,
    when,
};

/// The page of `chancery seal show`.
pub(crate) fn detail(seal: &SealDetail, view: &View) -> String {
    let rows = [
        ("Key file", format!("fingerprint {}", printable(&seal.key_file_fingerprint))),
        ("Active key", seal.active_key.to_string()),
    ];
    let keys = table(
        view,
        &["KEY", "RECORDS", "CREATED", ""],
        &[3],
        seal.keys.iter().map(|key| {
            let note = if key.id == seal.active_key {
                "active"
            } else if key.records > 0 {
                "being replaced"
            } else {
                ""
            };
            vec![
                key.id.to_string(),
                key.records.to_string(),
                when::both(key.created_at.as_ref(), view.now),
                note.to_owned(),
            ]
        }),
    );
    format!("{}\n\n{keys}\n", facts(view, rows))
}

#[cfg(test)]
mod tests {
    use insta::{assert_json_snapshot, assert_snapshot};

    use super::*;
    use crate::render::{fixtures, json};

    #[test]
    fn keys_say_what_they_are_for() {
        let seal = fixtures::seal();
        assert_snapshot!(detail(&seal, &fixtures::view()), @"
        Key file    fingerprint 0123456789abcdef
        Active key  2

        KEY  RECORDS  CREATED
        1    17       100 d ago (2026-08-14 05:00Z)    being replaced
        2    3        30 s ago (2026-11-22 04:59:30Z)  active
        ");
        assert_json_snapshot!(json::Seal::from(&seal), @r#"
        {
          "active_key": 2,
          "key_file_fingerprint": "0123456789abcdef",
          "keys": [
            {
              "id": 1,
              "created_at": "2026-08-14T05:00:00Z",
              "records": 17
            },
            {
              "id": 2,
              "created_at": "2026-11-22T04:59:30Z",
              "records": 3
            }
          ]
        }
        "#);
    }
}
