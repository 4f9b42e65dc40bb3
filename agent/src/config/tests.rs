use super::*;

fn parse(text: &str) -> Result<Config, Error> {
    Config::parse(Path::new("agent.toml"), text)
}

fn problems(text: &str) -> Vec<String> {
    match parse(text) {
        Err(error @ Error::Invalid { .. }) => {
            error.to_string().lines().map(str::to_owned).collect()
        }
        other => panic!("expected problems: {other:?}"),
    }
}

#[test]
fn a_minimal_file_gets_the_defaults() {
    let config = parse("coordinators = ['127.0.0.1:7443']").unwrap();
    assert_eq!(config.state_dir, Path::new("/var/lib/chancery-agent"));
    assert_eq!(config.install.dir, Path::new("/etc/chancery/certs"));
    assert_eq!(config.install.ownership, Ownership::of_process());
    assert_eq!((config.install.keep, config.retry.first.as_secs()), (3, 5));
    assert!(config.services.is_empty() && config.targets.is_empty());
}

#[test]
fn the_nginx_preset_can_be_overridden_key_by_key() {
    let config = parse(
        "coordinators = ['c:7443']
         [[service]]
         name = 'a'
         preset = 'nginx'
         [[service]]
         name = 'b'
         preset = 'nginx'
         certificates = ['web']
         reload = { systemd = 'nginx.service' }
         probe = false
         [[service]]
         name = 'c'
         certificates = []
         reload = { signal = 'HUP', pid_file = '/run/c.pid' }
         probe = { address = '[::1]:8443', timeout = '2s' }",
    )
    .unwrap();
    let service = |name: &str| &config.services[name];
    assert_eq!(service("a").test.as_deref().unwrap(), ["nginx", "-t"]);
    assert_eq!(service("a").probe.as_ref().unwrap().address, "127.0.0.1:443");
    assert_eq!(service("b").test.as_deref().unwrap(), ["nginx", "-t"]);
    assert_eq!(service("b").reload, Reload::Systemd("nginx.service".to_owned()));
    assert_eq!(service("b").probe, None);
    assert_eq!(service("c").test, None);
    assert_eq!(service("c").probe.as_ref().unwrap().timeout, Duration::from_secs(2));

    let using = |name: &str| {
        let services = config.services_of(&name.parse().unwrap());
        services.iter().map(ServiceName::as_str).collect::<Vec<_>>().join(",")
    };
    assert_eq!(using("web"), "a,b");
    assert_eq!(using("mail"), "a");
}

#[test]
fn a_target_overrides_owner_and_services() {
    let config = parse(
        "coordinators = ['c:7443']
         [install]
         owner = '12'
         mode = '0600'
         [[target]]
         certificate = 'mail'
         group = '34'
         services = []
         [[service]]
         name = 'web'
         reload = ['true']",
    )
    .unwrap();
    let mail: CertName = "mail".parse().unwrap();
    let ownership = config.ownership_of(&mail);
    assert_eq!((ownership.uid, ownership.gid, ownership.key_mode), (12, 34, 0o640));
    assert!(config.services_of(&mail).is_empty());
    assert_eq!(config.services_of(&"web".parse().unwrap()).len(), 1);
}

#[test]
fn what_cannot_be_read_is_not_compared() {
    let found = problems("coordinators = ['a:1']\n[retry]\nfirst = 'soon'\nmost = '1s'\n");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("retry.first"), "{found:?}");
}

#[test]
fn every_problem_is_told_at_once_with_file_line_key_value_and_remedy() {
    let found = problems(
        "coordinators = ['nowhere', 'a:1', 'a:1']
state_dir = 'relative'
stat_dir = '/x'
[install]
owner = 'no-such-user-here'
mode = '0644'
keep = -1
settle = 'soon'
[[target]]
certificate = 'Not Valid'
[[target]]
certificate = 'web'
services = ['nginx', 'apache']
[[service]]
name = 'nginx'
preset = 'ngnix'
reload_timeout = '0s'
test = 'nginx -t'
probe = { adress = '127.0.0.1:443' }
[[service]]
name = 'nginx'
reload = { signal = 'KILL', pid_file = 'x' }
certificates = ['web']
[retry]
first = '1m'
most = '1s'
[log]
format = 'xml'
",
    );
    insta::assert_snapshot!(found.join("\n"), @r#"
    agent.toml:1: coordinators[0] = 'nowhere': is not host:port; write for example "coordinator-1.example.org:7443" or "[::1]:7443"
    agent.toml:1: coordinators[2] = 'a:1': stands there twice
    agent.toml:2: state_dir = 'relative': is not an absolute path; start it with /
    agent.toml:3: stat_dir = '/x': is not a known key; known here: coordinators, state_dir, install, service, target, retry, log
    agent.toml:5: install.owner = 'no-such-user-here': there is no such user here: create it, or give a number
    agent.toml:6: install.mode = '0644': would let every user of this machine at the private key: use 0640 with a group, or 0600
    agent.toml:7: install.keep = -1: a number from 0 to 100 is expected
    agent.toml:8: install.settle = 'soon': is not a duration of up to a day; write for example "30s" or "10m"
    agent.toml:10: target[0].certificate = 'Not Valid': certificate name "Not Valid" is not valid: use 1 to 63 of a-z, 0-9, '-', '_' and '.', starting with a letter or digit
    agent.toml:13: target.web.services[1] = 'apache': there is no [[service]] with this name
    agent.toml:16: service.nginx.preset = 'ngnix': is not a preset; there is: nginx. Or write test and reload yourself
    agent.toml:17: service.nginx.reload_timeout = '0s': must be longer than nothing
    agent.toml:18: service.nginx.test = 'nginx -t': write the command as a list of words, such as ["nginx", "-t"]
    agent.toml:19: service.nginx.probe.adress = '127.0.0.1:443': is not a known key; known here: address, timeout, sni
    agent.toml:21: service[1].name = 'nginx': stands for two services; each name may be used once
    agent.toml:22: service.nginx.reload.signal = 'KILL': is not a signal that reloads; use "HUP", "USR1" or "USR2"
    agent.toml:22: service.nginx.reload.pid_file = 'x': is not an absolute path; start it with /
    agent.toml:26: retry.most = '1s': is shorter than the first wait, which is 1m: set retry.first too
    agent.toml:28: log.format = 'xml': use "human" or "json"
    "#);
}

#[test]
fn broken_syntax_is_told_by_line_and_nothing_else_is_blamed() {
    let found = problems("coordinators = ['a:1']\n[install\ndir = '/x'\n");
    assert!(found.iter().all(|line| line.contains("not TOML")), "{found:?}");
    assert!(found[0].starts_with("agent.toml:2: "), "{found:?}");
}

#[test]
fn modes_that_give_the_key_away_are_refused() {
    for (mode, expected) in
        [("0644", "every user"), ("0750", "execute"), ("0040", "owner"), ("rw", "octal")]
    {
        let found = problems(&format!("coordinators = ['a:1']\n[install]\nmode = '{mode}'"));
        assert!(found.len() == 1 && found[0].contains(expected), "{mode}: {found:?}");
    }
}

#[test]
fn one_mistake_is_not_blamed_on_what_depends_on_it() {
    let retry = |text: &str| problems(&format!("coordinators = ['a:1']\n[retry]\n{text}"));
    assert_eq!(retry("first = 'soon'\nmost = '2s'").len(), 1);
    let default = retry("most = '2s'");
    assert!(default.len() == 1 && default[0].contains("which is 5s"), "{default:?}");
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Path::new("/nonexistent/agent.toml")).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/agent.toml"), "{error}");
}

#[test]
fn the_example_in_the_documentation_is_valid() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/agent.toml");
    let config = Config::load(&file).unwrap();
    assert_eq!((config.coordinators.len(), config.services.len()), (2, 3));
}

#[test]
fn every_key_is_documented_and_stands_in_the_example() {
    let read = |name: &str| {
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name))
            .unwrap()
    };
    let (manual, example) = (read("agent.md"), read("examples/agent.toml"));
    // A key that nobody knows makes each section tell those that it knows.
    let found = problems(
        "coordinators = ['a:1']\nx = 1\ninstall.x = 1\nretry.x = 1\nlog.x = 1\n
         [[target]]\ncertificate = 'web'\nx = 1\n
         [[service]]\nname = 'a'\nreload = { systemd = 'u', x = 1 }\nx = 1\n
         probe = { address = 'a:1', x = 1 }",
    );
    assert_eq!(found.len(), 8, "{found:?}");
    for line in found {
        for key in line.split("known here: ").nth(1).unwrap().split(", ") {
            assert!(manual.contains(key), "{key} is not in agent.md");
            assert!(example.contains(key), "{key} is not in the example");
        }
    }
}
