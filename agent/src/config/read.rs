//! The sections of `agent.toml`, read into a [`Config`].

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use chancery_shared::{
    name::{CertName, ServiceName},
    retry::Policy,
    telemetry,
};

use super::{
    Config, Install, Ownership, Service, Target, Uses,
    document::{Section, Value},
    service,
};

/// Reads the whole document. `None` only if something required is missing; what is wrong
/// stands in the section's problems.
pub(super) fn config(mut root: Section<'_>) -> Option<Config> {
    let coordinators = root
        .require("coordinators", "list the coordinators, such as [\"coordinator-1:7443\"]")
        .and_then(|value| coordinators(&value));
    let state_dir = root
        .take("state_dir")
        .map_or_else(|| Some(PathBuf::from(STATE_DIR)), |value| absolute(&value));
    let install = install(root.take("install").and_then(|value| value.section()));
    let (services, declared) = services(root.take("service"));
    let known = Services { services: &services, declared: &declared };
    let targets = targets(root.take("target"), install.ownership, &known);
    let retry = retry(root.take("retry").and_then(|value| value.section()));
    let log = log(root.take("log").and_then(|value| value.section()));
    if state_dir.as_ref() == Some(&install.dir) {
        let reason = "is also install.dir: services could not read certificates there, because \
                      state_dir is closed to them; choose two folders";
        root.problems().missing("state_dir".to_owned(), reason);
    }
    root.finish();
    Some(Config {
        log,
        coordinators: coordinators?,
        state_dir: state_dir?,
        install,
        targets,
        services,
        retry,
    })
}

fn coordinators(value: &Value<'_>) -> Option<Vec<String>> {
    let mut addresses: Vec<String> = Vec::new();
    let list = value.list()?;
    if list.is_empty() {
        value.wrong("is empty; list the coordinators, such as [\"coordinator-1:7443\"]");
    }
    for element in list {
        match element.with(address) {
            Some(address) if addresses.contains(&address) => element.wrong("stands there twice"),
            Some(address) => addresses.push(address),
            None => {}
        }
    }
    Some(addresses)
}

fn install(section: Option<Section<'_>>) -> Install {
    let mut install = Install {
        dir: PathBuf::from(INSTALL_DIR),
        ownership: Ownership::of_process(),
        keep: 3,
        settle: Duration::from_millis(100),
    };
    let Some(mut section) = section else { return install };
    if let Some(dir) = section.take("dir").and_then(|value| absolute(&value)) {
        install.dir = dir;
    }
    install.ownership = Ownership::read(install.ownership, &mut section);
    if let Some(keep) = section.take("keep").and_then(|value| value.integer(0..=100)) {
        install.keep = keep;
    }
    if let Some(settle) = section.take("settle").and_then(|value| value.with(duration)) {
        install.settle = settle;
    }
    section.finish();
    install
}

/// The valid services, and the names of all, so that a service with a problem is not also
/// said to be absent.
struct Services<'a> {
    services: &'a BTreeMap<ServiceName, Service>,
    declared: &'a BTreeSet<ServiceName>,
}

fn services(value: Option<Value<'_>>) -> (BTreeMap<ServiceName, Service>, BTreeSet<ServiceName>) {
    let mut services = BTreeMap::new();
    let mut declared = BTreeSet::new();
    for element in value.and_then(|value| value.list()).unwrap_or_default() {
        let Some(mut section) = element.section() else { continue };
        let remedy = "give each [[service]] a name, such as \"nginx\"";
        let name = section.require("name", remedy).and_then(|value| {
            let name = value.parsed::<ServiceName>()?;
            if !declared.insert(name.clone()) {
                value.wrong("stands for two services; each name may be used once");
            }
            Some(name)
        });
        if let Some(name) = &name {
            section.rename(format!("service.{name}"));
        }
        let service = service::read(section);
        if let (Some(name), Some(service)) = (name, service) {
            services.insert(name, service);
        }
    }
    (services, declared)
}

fn targets(
    value: Option<Value<'_>>,
    base: Ownership,
    known: &Services<'_>,
) -> BTreeMap<CertName, Target> {
    let mut targets = BTreeMap::new();
    for element in value.and_then(|value| value.list()).unwrap_or_default() {
        let Some(mut section) = element.section() else { continue };
        let remedy = "name the certificate that this [[target]] is for";
        let certificate = section.require("certificate", remedy).and_then(|value| {
            let name = value.parsed::<CertName>()?;
            if targets.contains_key(&name) {
                value.wrong("stands for two targets; each certificate may have one");
            }
            Some(name)
        });
        if let Some(certificate) = &certificate {
            section.rename(format!("target.{certificate}"));
        }
        let ownership = Ownership::read(base, &mut section);
        let using = section
            .take("services")
            .and_then(|value| target_services(&value, certificate.as_ref(), known));
        section.finish();
        if let Some(certificate) = certificate {
            targets.insert(certificate, Target { ownership, services: using });
        }
    }
    targets
}

/// The `services` of a target: each must exist, and none that names the certificate
/// itself may be left out.
fn target_services(
    value: &Value<'_>,
    certificate: Option<&CertName>,
    known: &Services<'_>,
) -> Option<BTreeSet<ServiceName>> {
    let mut using = BTreeSet::new();
    for element in value.list()? {
        match element.parsed::<ServiceName>() {
            Some(name) if known.declared.contains(&name) => drop(using.insert(name)),
            Some(_) => element.wrong("there is no [[service]] with this name"),
            None => {}
        }
    }
    for (name, service) in known.services {
        if let (Uses::Named(names), Some(certificate)) = (&service.certificates, certificate)
            && names.contains(certificate)
            && !using.contains(name)
        {
            value.wrong(format!(
                "leaves out {name}, but service.{name}.certificates names {certificate}: say the \
                 same in both, or in one of them"
            ));
        }
    }
    Some(using)
}

fn retry(section: Option<Section<'_>>) -> Policy {
    let mut policy =
        Policy { first: Duration::from_secs(5), most: Duration::from_mins(10), factor: 2 };
    let Some(mut section) = section else { return policy };
    let first = section.take("first").map(|value| value.with(positive_duration));
    if let Some(Some(first)) = first {
        policy.first = first;
    }
    // With a `first` that cannot be read there is nothing to compare with.
    let comparable = !matches!(first, Some(None));
    if let Some(value) = section.take("most")
        && let Some(most) = value.with(positive_duration)
    {
        if comparable && most < policy.first {
            value.wrong(format!(
                "is shorter than the first wait, which is {}: set retry.first too",
                humantime::format_duration(policy.first)
            ));
        }
        policy.most = most;
    }
    policy.most = policy.most.max(policy.first);
    section.finish();
    policy
}

fn log(section: Option<Section<'_>>) -> telemetry::Options {
    let mut options = telemetry::Options::default();
    let Some(mut section) = section else { return options };
    let format = |text: &str| match text {
        "human" => Ok(telemetry::Format::Human),
        "json" => Ok(telemetry::Format::Json),
        _ => Err("use \"human\" or \"json\"".to_owned()),
    };
    if let Some(format) = section.take("format").and_then(|value| value.with(format)) {
        options.format = format;
    }
    options.filter = section.take("filter").and_then(|value| value.string().map(str::to_owned));
    section.finish();
    options
}

/// A path that does not depend on where the agent was started.
pub(super) fn absolute(value: &Value<'_>) -> Option<PathBuf> {
    value.with(|text| {
        let path = PathBuf::from(text);
        if path.is_absolute() {
            Ok(path)
        } else {
            Err("is not an absolute path; start it with /".to_owned())
        }
    })
}

/// `host:port`, with IPv6 addresses in brackets.
pub(super) fn address(text: &str) -> Result<String, String> {
    let expected = || {
        "is not host:port; write for example \"coordinator-1.example.org:7443\" or \"[::1]:7443\""
            .to_owned()
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
    let host_ok = match host.strip_prefix('[') {
        Some(rest) => {
            rest.strip_suffix(']').is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok())
        }
        None => {
            !host.is_empty()
                && host.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._".contains(&c))
        }
    };
    if host_ok && port.parse::<u16>().is_ok_and(|port| port != 0) {
        Ok(text.to_owned())
    } else {
        Err(expected())
    }
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .ok()
        .filter(|duration| *duration <= Duration::from_hours(24))
        .ok_or_else(|| {
            "is not a duration of up to a day; write for example \"30s\" or \"10m\"".to_owned()
        })
}

pub(super) fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be longer than nothing".to_owned()),
        duration => Ok(duration),
    }
}

const STATE_DIR: &str = "/var/lib/chancery-agent";
const INSTALL_DIR: &str = "/etc/chancery/certs";
