use super::*;

#[test]
fn a_zone_holds_itself_and_what_is_below() {
    assert!(is_within("a.example.org", "example.org"));
    assert!(is_within("example.org", "example.org"));
    assert!(!is_within("badexample.org", "example.org"));
    assert!(!is_within("org", "example.org"));
}
