//! The tables `dns01` and `dns`: how DNS-01 challenges are answered.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use chancery_shared::{identifier::Identifier, name::DnsProviderName};

use super::{
    duration,
    reader::{Reader, Section},
};
use crate::challenge::dns01::{
    DEFAULT_PROPAGATION_DEADLINE, Options, ProviderOptions,
    providers::{Kind, Settings, kind, kinds},
};

/// Reads both tables. An order has to be done within `orders_deadline`, with all that it waits for.
pub(super) fn read<'a>(
    reader: &mut Reader<'a>,
    root: &mut Section<'a>,
    orders_deadline: Duration,
) -> Options {
    let mut dns01 = reader.table(root, "dns01");
    let resolvers = addresses(reader, &mut dns01, "resolvers");
    let propagation_deadline = duration(
        reader,
        &mut dns01,
        "propagation_deadline",
        DEFAULT_PROPAGATION_DEADLINE,
        1..=24 * 3600,
    );
    reader.finish(&dns01, &["resolvers", "propagation_deadline"]);
    let mut dns = reader.table(root, "dns");
    let mut providers = Vec::new();
    for name in dns.keys() {
        let line = dns.line_of(&name);
        let mut table = reader.table(&mut dns, &name);
        let name = name.parse::<DnsProviderName>();
        let name = name.map_err(|error| reader.problem(line, format!("dns: {error}"))).ok();
        let Some(provider) = read_provider(reader, &mut table, name) else { continue };
        if provider.propagation_wait + propagation_deadline >= orders_deadline {
            let shown = humantime::format_duration;
            let message = format!(
                "dns.{}.propagation_wait = \"{}\" and dns01.propagation_deadline = \"{}\" do not fit \
                 into orders.deadline = \"{}\": no order that waits as long as it may would be \
                 finished; lower them, or raise orders.deadline",
                provider.name,
                shown(provider.propagation_wait),
                shown(propagation_deadline),
                shown(orders_deadline)
            );
            reader.problem(line, message);
        }
        providers.push(provider);
    }
    Options { resolvers, propagation_deadline, providers }
}

/// `None` if the kind is not known, or something required is missing, which is then noted.
fn read_provider<'a>(
    reader: &mut Reader<'a>,
    table: &mut Section<'a>,
    name: Option<DnsProviderName>,
) -> Option<ProviderOptions> {
    let kinds: Vec<&str> = kinds().map(|kind| kind.name).collect();
    let kinds = kinds.join(", ");
    if !table.has("kind") {
        reader.missing(table, "kind", &format!("kind = \"rfc2136\"; known here: {kinds}"));
        return None;
    }
    let known = |text: &str| kind(text).ok_or("there is no such kind of DNS provider");
    let kind: &'static Kind =
        reader.parsed(table, "kind", known, &format!("write one of {kinds}"))?;
    let zones = zones(reader, table);
    let name_servers = addresses(reader, table, "name_servers");
    let propagation_wait = duration(reader, table, "propagation_wait", Duration::ZERO, 0..=3600);
    let values = values(reader, table, kind);
    let mut keys = vec!["kind", "zones", "name_servers", "propagation_wait"];
    keys.extend(kind.required.iter().map(|(key, _)| key));
    keys.extend(kind.optional);
    reader.finish(table, &keys);
    let settings = Settings { kind, values: values? };
    Some(ProviderOptions { name: name?, zones, name_servers, propagation_wait, settings })
}

fn zones<'a>(reader: &mut Reader<'a>, table: &mut Section<'a>) -> Vec<String> {
    let mut zones = Vec::new();
    let (line, texts) = reader.texts(table, "zones").unwrap_or_default();
    for text in texts {
        let zone = text.trim_end_matches('.').to_ascii_lowercase();
        // A zone may have one label, an identifier has at least two.
        if format!("x.{zone}").parse::<Identifier>().is_ok() {
            zones.push(zone);
        } else {
            let message = format!("zones: {text:?} is no zone; write its name, as \"example.org\"");
            reader.problem(line, message);
        }
    }
    zones
}

/// The texts that a kind of provider has beside what all have.
fn values<'a>(
    reader: &mut Reader<'a>,
    table: &mut Section<'a>,
    kind: &'static Kind,
) -> Option<BTreeMap<&'static str, String>> {
    let mut values = BTreeMap::new();
    let mut complete = true;
    for (key, example) in kind.required {
        if !table.has(key) {
            reader.missing(table, key, example);
        }
        match reader.text(table, key) {
            Some((_, text)) => {
                values.insert(*key, text);
            }
            None => complete = false,
        }
    }
    for key in kind.optional {
        if let Some((_, text)) = reader.text(table, key) {
            values.insert(*key, text);
        }
    }
    complete.then_some(values)
}

/// Addresses with a port, or without one for 53.
fn addresses<'a>(reader: &mut Reader<'a>, table: &mut Section<'a>, key: &str) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    let (line, texts) = reader.texts(table, key).unwrap_or_default();
    for text in texts {
        let bare = || text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
        match text.parse::<SocketAddr>().or_else(|_| bare()) {
            Ok(address) => addresses.push(address),
            Err(_) => reader.problem(
                line,
                format!(
                    "{key}: {text:?} is not an address; write an IP address, with a port if that is \
                     not 53, such as \"192.0.2.53\""
                ),
            ),
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn parse(text: &str) -> Result<Options, String> {
        let (mut reader, mut root) = Reader::open(Path::new("c.toml"), text).unwrap();
        let options = read(&mut reader, &mut root, Duration::from_mins(10));
        if reader.is_clean() { Ok(options) } else { Err(reader.into_problems().to_string()) }
    }

    #[test]
    fn providers_are_read_with_their_zones() {
        let options = parse(
            "[dns01]\nresolvers = [\"127.0.0.1:5353\"]\npropagation_deadline = \"1m\"\n\
             [dns.inside]\nkind = \"rfc2136\"\nserver = \"192.0.2.53\"\n\
             tsig_key_file = \"/k\"\nzones = [\"Example.org.\", \"lan\"]\n\
             name_servers = [\"192.0.2.54\", \"[::1]:54\"]\npropagation_wait = \"2s\"\n",
        )
        .unwrap();
        assert_eq!(options.resolvers, ["127.0.0.1:5353".parse().unwrap()]);
        assert_eq!(options.propagation_deadline, Duration::from_mins(1));
        let provider = &options.providers[0];
        assert_eq!(provider.name.as_str(), "inside");
        assert_eq!(provider.zones, ["example.org", "lan"]);
        let servers = ["192.0.2.54:53", "[::1]:54"].map(|text| text.parse().unwrap());
        assert_eq!(provider.name_servers, servers);
        assert_eq!(provider.propagation_wait, Duration::from_secs(2));
        assert_eq!(provider.settings.values["server"], "192.0.2.53");
    }

    #[test]
    fn without_tables_there_is_no_provider() {
        assert!(parse("").unwrap().providers.is_empty());
    }

    #[test]
    fn waits_that_no_order_has_time_for_are_refused() {
        let provider = |name: &str, wait: &str| {
            format!(
                "[dns.{name}]\nkind = \"rfc2136\"\nserver = \"192.0.2.53\"\n\
                 tsig_key_file = \"/k\"\npropagation_wait = \"{wait}\"\n"
            )
        };
        let dns01 = "[dns01]\npropagation_deadline = \"4m\"\n";
        let text = format!("{dns01}{}{}", provider("a", "5m 59s"), provider("b", "6m"));
        let problems = parse(&text).unwrap_err();
        let expected = "c.toml:8: dns.b.propagation_wait = \"6m\" and dns01.propagation_deadline = \
                        \"4m\" do not fit into orders.deadline = \"10m\"";
        assert!(problems.contains(expected), "{problems}");
        assert!(problems.contains("raise orders.deadline") && !problems.contains("dns.a"));
    }

    #[test]
    fn all_problems_are_told_with_their_lines() {
        let problems = parse(
            "[dns01]\nresolvers = [\"localhost\"]\n\
             [dns.a]\nkind = \"rfc2137\"\n\
             [dns.b]\nkind = \"rfc2136\"\nserver = \"192.0.2.53\"\nzones = [\"*.a\"]\nname_servers = 3\n\
             colour = \"red\"\n\
             [dns.\"C d\"]\nserver = \"x\"\n",
        )
        .unwrap_err();
        for expected in [
            "c.toml:2: resolvers: \"localhost\" is not an address",
            "c.toml:4: dns.a.kind = \"rfc2137\": there is no such kind of DNS provider; write one of",
            "c.toml:5: dns.b.tsig_key_file is missing",
            "c.toml:8: zones: \"*.a\" is no zone",
            "c.toml:9: dns.b.name_servers: expected a list of texts, found a whole number",
            "c.toml:10: dns.b.colour: unknown key; known here: kind, zones",
            "c.toml:11: dns: DNS provider name \"C d\" is not valid",
            "c.toml:11: dns.C d.kind is missing",
        ] {
            assert!(problems.contains(expected), "{expected:?} is not in {problems}");
        }
    }
}
