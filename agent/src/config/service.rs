//! One `[[service]]`, with its preset filled in.

use std::{collections::BTreeSet, time::Duration};

use chancery_shared::name::CertName;
use rustix::process::Signal;
use rustls_pki_types::DnsName;

use super::{
    Probe, Reload, Service, Uses,
    document::{Section, Value},
    read::{absolute, address, positive_duration},
};

/// What a preset fills in where the operator says nothing.
struct Preset {
    name: &'static str,
    test: &'static [&'static str],
    reload: &'static [&'static str],
    /// Where the service usually listens.
    address: &'static str,
}

const PRESETS: [Preset; 1] = [Preset {
    name: "nginx",
    test: &["nginx", "-t"],
    reload: &["nginx", "-s", "reload"],
    address: "127.0.0.1:443",
}];

/// Reads a service; `None` if it cannot be used, which then stands in the problems.
pub(super) fn read(mut section: Section<'_>) -> Option<Service> {
    let chosen = section.take("preset");
    let preset = chosen.as_ref().and_then(|value| value.with(preset));
    // A preset with a typo would have filled in what now seems to be missing.
    let complain = chosen.is_none();
    let certificates =
        section.take("certificates").map_or(Some(Uses::All), |value| certificates(&value));
    let test = match section.take("test") {
        Some(value) if value.is_false() => None,
        Some(value) => command(&value),
        None => preset.map(|preset| words(preset.test)),
    };
    let test_timeout = timeout(&mut section, "test_timeout");
    let reload = match section.take("reload") {
        Some(value) => reload(&value),
        None if complain => {
            let remedy = "is missing; write the command that makes the service read its files \
                          again, such as [\"nginx\", \"-s\", \"reload\"], or choose a preset";
            section.problems().missing(section.key("reload"), remedy);
            None
        }
        None => preset.map(|preset| Reload::Command(words(preset.reload))),
    };
    let reload_timeout = timeout(&mut section, "reload_timeout");
    let probe = match section.take("probe") {
        Some(value) if value.is_false() => None,
        Some(value) => probe(&value, certificates.as_ref(), preset, complain),
        None => preset.map(|preset| Probe {
            address: preset.address.to_owned(),
            timeout: PROBE_TIMEOUT,
            sni: None,
        }),
    };
    section.finish();
    Some(Service {
        certificates: certificates?,
        test,
        test_timeout,
        reload: reload?,
        reload_timeout,
        probe,
    })
}

fn preset(text: &str) -> Result<&'static Preset, String> {
    PRESETS.iter().find(|preset| preset.name == text).ok_or_else(|| {
        let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
        format!(
            "is not a preset; there is: {}. Or write test and reload yourself",
            names.join(", ")
        )
    })
}

fn certificates(value: &Value<'_>) -> Option<Uses> {
    let list = value.list()?;
    if list.iter().any(|element| element.as_str() == Some("*")) {
        if list.len() > 1 {
            value.wrong("names all certificates and single ones; write [\"*\"] or the names");
        }
        return Some(Uses::All);
    }
    let names: Vec<Option<CertName>> = list.iter().map(Value::parsed).collect();
    names.into_iter().collect::<Option<BTreeSet<_>>>().map(Uses::Named)
}

fn command(value: &Value<'_>) -> Option<Vec<String>> {
    if value.as_str().is_some() {
        value.wrong("write the command as a list of words, such as [\"nginx\", \"-t\"]");
        return None;
    }
    let list = value.list()?;
    if list.is_empty() {
        value.wrong("is empty; write the command as a list of words, such as [\"nginx\", \"-t\"]");
        return None;
    }
    list.iter().map(|element| element.string().map(str::to_owned)).collect()
}

fn reload(value: &Value<'_>) -> Option<Reload> {
    if value.is_array() || value.as_str().is_some() {
        return command(value).map(Reload::Command);
    }
    let mut section = value.section()?;
    let unit = section.take("systemd");
    let signal = section.take("signal");
    let pid_file = section.take("pid_file");
    section.finish();
    match (unit, signal, pid_file) {
        (Some(unit), None, None) => unit.string().map(|unit| Reload::Systemd(unit.to_owned())),
        (None, Some(signal), Some(pid_file)) => {
            let signal = signal.with(signal_by_name);
            Some(Reload::Signal { pid_file: absolute(&pid_file)?, signal: signal? })
        }
        _ => {
            value.wrong(
                "write a command, { systemd = \"UNIT\" }, or { signal = \"HUP\", pid_file = \"FILE\" }",
            );
            None
        }
    }
}

fn signal_by_name(text: &str) -> Result<Signal, String> {
    match text.strip_prefix("SIG").unwrap_or(text) {
        "HUP" => Ok(Signal::HUP),
        "USR1" => Ok(Signal::USR1),
        "USR2" => Ok(Signal::USR2),
        _ => Err("is not a signal that reloads; use \"HUP\", \"USR1\" or \"USR2\"".to_owned()),
    }
}

fn probe(
    value: &Value<'_>,
    uses: Option<&Uses>,
    preset: Option<&Preset>,
    complain: bool,
) -> Option<Probe> {
    let mut section = value.section()?;
    let address = match (section.take("address"), preset) {
        (Some(value), _) => value.with(address),
        (None, Some(preset)) => Some(preset.address.to_owned()),
        (None, None) if !complain => None,
        (None, None) => {
            let reason = "is missing; write where the service listens, such as \"127.0.0.1:443\"";
            section.problems().missing(section.key("address"), reason);
            None
        }
    };
    let timeout = section.take("timeout").and_then(|value| value.with(positive_duration));
    let sni = section.take("sni").and_then(|value| {
        if !matches!(uses, Some(Uses::Named(names)) if names.len() == 1) {
            value.wrong(
                "one name cannot be right for several certificates: leave it out, so that each is \
                 asked for by its own name, or name one certificate in `certificates`",
            );
        }
        value.with(|text| {
            DnsName::try_from(text)
                .map(|_| text.to_owned())
                .map_err(|_| "is not a DNS name".to_owned())
        })
    });
    section.finish();
    Some(Probe { address: address?, timeout: timeout.unwrap_or(PROBE_TIMEOUT), sni })
}

fn timeout(section: &mut Section<'_>, key: &'static str) -> Duration {
    section
        .take(key)
        .and_then(|value| value.with(positive_duration))
        .unwrap_or(Duration::from_secs(30))
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
