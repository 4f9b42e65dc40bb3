use super::*;

#[test]
fn a_zone_holds_itself_and_what_is_below() {
    assert!(is_within("a.example.org", "example.org"));
    assert!(is_within("example.org", "example.org"));
    assert!(!is_within("badexample.org", "example.org"));
    assert!(!is_within("org", "example.org"));
}

#[test]
fn the_name_of_an_account_is_that_of_the_drafts_example() {
    let wildcard: Identifier = "*.example.org".parse().unwrap();
    let owner = Owner::Account("https://example.com/acme/acct/ExampleAccount");
    assert_eq!(owner.name(&wildcard), "_ujmmovf2vn55tgye._acme-challenge.example.org");
    assert_eq!(Owner::Everybody.name(&wildcard), "_acme-challenge.example.org");
}
