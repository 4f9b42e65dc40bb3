//! Deletes what is left of agents and certificates that are gone.
//!
//! What takes an agent or a certificate out of the world is one small transaction: its record, and
//! whatever could bring it back or be handed out. What hangs on it (deployments by the thousands) goes
//! afterwards, in as many transactions as it takes, from here. Level-triggered: what is left
//! over follows from the mirror, so a leader that died half-way leaves nothing to its successor but
//! to look. Each transaction requires that the owner is gone still.

use std::{collections::BTreeSet, time::Duration};

use chancery_shared::{name::CertName, retry::Policy};

use crate::{
    election::Leadership,
    mirror::{Mirror, View},
    record::key,
    store::{Batch, Error, Packer, Store},
};

/// Sweeps until nothing is left over, or the term is over. Cancel-safe.
pub async fn until_done(store: &dyn Store, leadership: &Leadership, mirror: &Mirror) {
    let mut waits = Policy::CONNECT.waits();
    while let Err(error) = sweep(store, leadership, mirror).await {
        if leadership.check().is_err() {
            return;
        }
        tracing::warn!(%error, "what is left of deleted objects cannot be removed yet");
        tokio::time::sleep(waits.next_wait()).await;
    }
}

/// Deletes what the mirror shows to be left over. What somebody else is at work on stays for the
/// next time.
pub async fn sweep(
    store: &dyn Store,
    leadership: &Leadership,
    mirror: &Mirror,
) -> Result<(), Error> {
    let (mut groups, names) = {
        let view = mirror.read();
        (left_over(&view), bundles_left_over(&view))
    };
    for name in names {
        let bundles = store.list(&format!("{}{name}/", key::BUNDLES)).await?;
        groups.extend(bundles.entries.into_iter().map(|entry| {
            Batch::unfenced()
                .absent(key::certificate(&name))
                .unchanged(&*entry.key, Some(entry.revision))
                .delete(&*entry.key)
        }));
    }
    let mut packer = Packer::new(leadership.batch());
    for group in groups {
        packer.add(group);
    }
    for batch in packer.finish() {
        match store.commit(batch).await {
            // So that whoever asked for the deletion does not see what is deleted.
            Ok(revision) => {
                let _ = tokio::time::timeout(SHOWN, mirror.wait_for(revision)).await;
            }
            // Somebody has come back, or is at work on it.
            Err(Error::Conflict { key }) => tracing::debug!(key, "not swept: it is in use"),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Deletions of deployments, services, renewal windows, standbys and challenges that belong to nothing.
fn left_over(view: &View) -> Vec<Batch> {
    let mut groups = Vec::new();
    for (agent, table) in &view.deployments {
        let is_gone = !view.agents.contains_key(agent);
        for certificate in table.keys() {
            let owner = if is_gone {
                key::agent(agent)
            } else if view.certificates.contains_key(certificate) {
                continue;
            } else {
                key::certificate(certificate)
            };
            let at = key::deployment(agent, certificate);
            groups.push(Batch::unfenced().absent(owner).delete(at));
        }
    }
    for agent in view.services.keys().filter(|agent| !view.agents.contains_key(*agent)) {
        let group = Batch::unfenced().absent(key::agent(agent));
        groups.push(group.delete(key::services(agent)));
    }
    for (name, info) in &view.renewal_infos {
        if !view.certificates.contains_key(name) {
            let at = key::renewal_info(name);
            let group = Batch::unfenced().absent(key::certificate(name));
            groups.push(group.unchanged(&*at, Some(info.revision)).delete(&*at));
        }
    }
    groups.extend(standbys_left_over(view));
    // What is in the DNS goes after the value there has gone (`challenge::dns01`).
    for (token, challenge) in view.strays().filter(|(_, found)| !found.record.is_in_dns()) {
        let at = key::challenge(token);
        groups.push(Batch::unfenced().unchanged(&*at, Some(challenge.revision)).delete(&*at));
    }
    groups
}

/// Deletions of standbys that no certificate wants.
fn standbys_left_over(view: &View) -> Vec<Batch> {
    let mut groups = Vec::new();
    for (name, standby) in &view.standbys {
        let spec = view.certificates.get(name);
        if spec.is_some_and(|spec| spec.record.standby.is_some()) {
            continue;
        }
        let at = key::standby(name);
        let group = Batch::unfenced().unchanged(key::certificate(name), spec.map(|it| it.revision));
        groups.push(group.unchanged(&*at, Some(standby.revision)).delete(&*at));
    }
    groups
}

/// Certificates that are gone while bundles of them are there.
fn bundles_left_over(view: &View) -> BTreeSet<CertName> {
    let names = view.bundles.keys().filter(|name| !view.certificates.contains_key(*name));
    names.cloned().collect()
}

const SHOWN: Duration = Duration::from_secs(5);
