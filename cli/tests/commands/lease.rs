//! `lease show --watch` and `lease transfer`.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::*;

fn held(node: &str, epoch: u64) -> Lease {
    Lease { held: true, holder: node.to_owned(), epoch, confirmed: true, ..Lease::default() }
}

fn to(holder: &str, epoch: u64) -> TransferLeaseResponse {
    TransferLeaseResponse {
        from: "node-1".to_owned(),
        from_epoch: 7,
        holder: holder.to_owned(),
        epoch,
        took: None,
    }
}

fn transfers(answer: Result<TransferLeaseResponse, Status>, leases: Vec<Lease>) -> Script {
    Script { transfer: Some(answer), leases: leases.into(), ..Script::default() }
}

#[tokio::test]
async fn a_transfer_names_the_term_that_it_is_to_end() {
    let fake = Fake::start(transfers(Ok(to("node-2", 8)), vec![held("node-1", 7)]));
    let ended = chancery(&fake.socket, &["lease", "transfer", "--to", "node-2"]).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stdout.starts_with("node-2 leads, epoch 8, "), "{}", ended.stdout);
    assert_eq!(fake.calls(), ["transfer to=\"node-2\" epoch=7"]);
    let ended = chancery(&fake.socket, &["lease", "transfer", "-o", "json"]).await;
    let json: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(
        (json["holder"].as_str(), json["transferred"].as_bool()),
        (Some("node-2"), Some(true))
    );
}

#[tokio::test]
async fn a_transfer_to_the_one_that_leads_does_nothing_and_says_so() {
    let fake = Fake::start(transfers(Ok(to("node-1", 7)), vec![held("node-1", 7)]));
    let ended = chancery(&fake.socket, &["lease", "transfer", "--to", "node-1"]).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stdout.contains("leads already, epoch 7; nothing was done"), "{}", ended.stdout);
}

#[tokio::test]
async fn a_transfer_waits_until_somebody_leads() {
    let leases = vec![held("node-1", 7), Lease::default(), held("node-1", 7), held("node-2", 8)];
    let fake = Fake::start(transfers(Ok(to("", 0)), leases));
    let ended = chancery(&fake.socket, &["lease", "transfer"]).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stdout.contains("node-2 leads, epoch 8"), "{}", ended.stdout);

    let fake = Fake::start(transfers(Ok(to("", 0)), vec![held("node-1", 7)]));
    let ended = chancery(&fake.socket, &["lease", "transfer", "--timeout", "1s"]).await;
    assert_eq!(ended.code, 6, "{}", ended.stderr);
    assert!(ended.stderr.contains("nobody was seen to lead within 1s"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_transfer_that_went_elsewhere_has_failed() {
    for (args, answer, words) in [
        (&["--to", "node-2"][..], to("node-3", 8), "node-3 leads now, not node-2"),
        (&[], to("node-1", 8), "nobody else took over, so node-1 leads again"),
    ] {
        let fake = Fake::start(transfers(Ok(answer), vec![held("node-1", 7)]));
        let ended = chancery(&fake.socket, &[&["lease", "transfer"], args].concat()).await;
        assert_eq!(ended.code, 1, "{}", ended.stderr);
        assert!(ended.stderr.contains(words), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn a_transfer_that_is_refused_tells_by_its_exit_code_why() {
    for (status, code) in [
        (Status::not_found("there is no coordinator named node-9"), 4),
        (Status::aborted("node-2 leads with epoch 8 by now"), 5),
        (Status::failed_precondition("nobody could take over"), 5),
        (Status::unavailable("the store is not available"), 3),
    ] {
        let words = status.message().to_owned();
        let fake = Fake::start(transfers(Err(status), vec![held("node-1", 7)]));
        let ended = chancery(&fake.socket, &["lease", "transfer"]).await;
        assert_eq!(ended.code, code, "{}", ended.stderr);
        assert!(ended.stderr.contains(&words), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn watching_prints_a_line_for_each_change() {
    let leases = vec![
        held("node-1", 7),
        held("node-1", 7),
        Lease { epoch: 7, ..Lease::default() },
        held("node-2", 8),
    ];
    for (format, expected) in [
        ("table", ["node-1 leads, epoch 7", "nobody leads; the last epoch was 7", "node-2 leads"]),
        ("json", ["\"holder\":\"node-1\"", "\"held\":false", "\"holder\":\"node-2\""]),
    ] {
        let fake = Fake::start(Script { leases: leases.clone().into(), ..Script::default() });
        let mut command = command(&fake.socket, &["lease", "show", "--watch", "-o", format]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for words in expected {
            let line = lines.next_line().await.unwrap().unwrap();
            assert!(line.contains(words), "{words}: {line}");
        }
        child.kill().await.unwrap();
    }
}
