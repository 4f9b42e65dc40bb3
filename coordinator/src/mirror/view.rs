//! What the store holds, decoded and indexed.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    str::FromStr,
    sync::Arc,
};

use bytes::Bytes;
use chancery_shared::{
    name::{AgentName, CertName, FreezeName, IssuerName, NodeName},
    number::{Generation, Revision},
    x509::Fingerprint,
};
use uuid::Uuid;

use super::Touched;
use crate::{
    record::{
        self, Account, Agent, Authority, Budget, Bundle, CertificateSpec, CertificateState, Chain,
        Challenge, DecodeError, Deployment, Event, Freeze, IssuerSpec, JoinToken, Leader, Member,
        NextKey, Order, Record, RenewalInfo, Revocation, SealRing, Services, Standby, key,
    },
    store::{Change, Commit, Entry, Error, Snapshot, Store},
};

/// A record and the revision of the commit that wrote it.
#[derive(Clone, Debug)]
pub struct Versioned<T> {
    /// The record.
    pub record: Arc<T>,
    /// For preconditions.
    pub revision: Revision,
}

/// Records by name.
pub type Table<K, V> = BTreeMap<K, Versioned<V>>;

/// What the store holds, decoded.
#[derive(Debug, Default)]
pub struct View {
    /// The revision that this shows.
    pub revision: Revision,
    /// The last commit that is known to have written one of the records. Never after `revision`, but
    /// possibly before it: others may write to the same store, beside our records. What is told to
    /// somebody who may go on at another coordinator has to be this one, which every mirror gets to
    /// see.
    pub last_commit: Revision,
    /// Desired certificates.
    pub certificates: Table<CertName, CertificateSpec>,
    /// States of certificates, also of deleted ones.
    pub states: Table<CertName, CertificateState>,
    /// The newest bundle of each certificate.
    pub bundles: Table<CertName, Bundle>,
    /// Issuing certificates, DER.
    pub chains: BTreeMap<Fingerprint, Bytes>,
    /// Bundles that are kept ready.
    pub standbys: Table<CertName, Standby>,
    /// What CAs say about when to renew.
    pub renewal_infos: Table<CertName, RenewalInfo>,
    /// The order journal.
    pub orders: Table<CertName, Order>,
    /// Presented challenges, by token.
    pub challenges: Table<String, Challenge>,
    /// Desired issuers.
    pub issuers: Table<IssuerName, IssuerSpec>,
    /// Times in which nothing is renewed.
    pub freezes: Table<FreezeName, Freeze>,
    /// ACME accounts.
    pub accounts: Table<IssuerName, Account>,
    /// What of the CAs' limits is used up.
    pub budgets: Table<IssuerName, Budget>,
    /// Keys of next generations.
    pub next_keys: Table<CertName, NextKey>,
    /// Revocations, by certificate and generation.
    pub revocations: Table<(CertName, Generation), Revocation>,
    /// Enrolled agents.
    pub agents: Table<AgentName, Agent>,
    /// Deployments, by agent.
    pub deployments: BTreeMap<AgentName, Table<CertName, Deployment>>,
    /// Services, by agent.
    pub services: Table<AgentName, Services>,
    /// Join tokens, by identifier.
    pub tokens: Table<String, JoinToken>,
    /// Events, by sequence number.
    pub events: BTreeMap<u64, Arc<Event>>,
    /// The internal CA.
    pub authority: Option<Versioned<Authority>>,
    /// The data keys.
    pub seal: Option<Versioned<SealRing>>,
    /// Coordinators that are there.
    pub members: Table<NodeName, Member>,
    /// Who leads.
    pub leader: Option<Versioned<Leader>>,
    /// Keys whose values cannot be read, and why.
    pub damaged: BTreeMap<String, DecodeError>,
}

impl View {
    /// The view of a whole listing.
    pub fn of(snapshot: &Snapshot) -> Self {
        let mut view = Self { revision: snapshot.revision, ..Self::default() };
        let mut touched = Touched::default();
        for entry in &snapshot.entries {
            view.add(entry, &mut touched);
        }
        view
    }

    /// The view of what a store has now in these folders; `""` stands for all of them. At no time is
    /// more held than a page and what was decoded: a hundred thousand certificates take as much again
    /// in the form in which they are stored.
    pub async fn read(store: &dyn Store, folders: &[&str]) -> Result<Self, Error> {
        for _ in 0..TRIES {
            match Self::read_once(store, folders).await {
                Err(Error::Compacted { .. }) => {}
                decided => return decided,
            }
        }
        let reason = "its history is compacted faster than it can be read";
        Err(Error::Unavailable(reason.to_owned()))
    }

    async fn read_once(store: &dyn Store, folders: &[&str]) -> Result<Self, Error> {
        let mut view = Self::default();
        for folder in folders {
            let mut each = |entry: Entry| view.add(&entry, &mut Touched::default());
            let revision = store.scan(folder, &mut each).await?;
            view.revision = revision;
        }
        Ok(view)
    }

    fn add(&mut self, entry: &Entry, touched: &mut Touched) {
        self.last_commit = self.last_commit.max(entry.revision);
        self.put(entry, touched);
    }

    /// Brings the view up to a commit. Says what it touched.
    pub fn apply(&mut self, commit: &Commit, touched: &mut Touched) {
        for change in &commit.changes {
            match change {
                Change::Put(entry) => self.put(entry, touched),
                Change::Delete { key } => self.delete(key, touched),
            }
        }
        (self.revision, self.last_commit) = (commit.revision, commit.revision);
    }

    /// The agents that may have the certificate.
    pub fn entitled_agents(&self, certificate: &str) -> Vec<AgentName> {
        let Some(spec) = self.certificates.get(certificate) else { return Vec::new() };
        self.agents
            .iter()
            .filter(|(_, agent)| agent.record.labels.satisfy(&spec.record.labels))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// The certificates that an agent may have.
    pub fn entitlement<'a>(&'a self, agent: &'a Agent) -> impl Iterator<Item = &'a CertName> {
        self.certificates
            .iter()
            .filter(|(_, spec)| agent.labels.satisfy(&spec.record.labels))
            .map(|(name, _)| name)
    }

    /// The deployment of a certificate on an agent.
    pub fn deployment(&self, agent: &str, certificate: &str) -> Option<&Deployment> {
        Some(&*self.deployments.get(agent)?.get(certificate)?.record)
    }

    /// Where agents find the coordinators that are there, in order of their names.
    pub fn coordinators(&self) -> Vec<String> {
        self.members.values().map(|member| member.record.address.clone()).collect()
    }

    /// The challenges whose token no live order has, so that nobody needs their answers any more. None as
    /// long as there is an order that cannot be read, which may need any of them.
    pub fn strays(&self) -> impl Iterator<Item = (&String, &Versioned<Challenge>)> {
        let unreadable = self.damaged.keys().any(|at| at.starts_with(key::ORDERS));
        let tokens = self.orders.values().flat_map(|order| order.record.stage.tokens());
        let needed: HashSet<&str> = tokens.map(String::as_str).collect();
        let all = self.challenges.iter();
        all.filter(move |(token, _)| !unreadable && !needed.contains(token.as_str()))
    }

    /// Whether a live order other than `order` has this token as well.
    pub fn is_needed_by_another(&self, token: &str, order: Uuid) -> bool {
        let others = self.orders.values().filter(|other| other.record.id != order);
        others.flat_map(|other| other.record.stage.tokens()).any(|other| other == token)
    }

    /// The generation that a renewal of a certificate becomes, if `present` is the newest one. Agents
    /// may have had later ones before the store was restored from a backup, and never go back.
    pub fn next_generation(&self, certificate: &CertName, present: Generation) -> Generation {
        // Its standby has a number of its own.
        let standby = self.standbys.get(certificate).map(|standby| standby.record.state.generation);
        // One that is gone may still be named by a revocation.
        let all =
            (certificate.clone(), Generation(0))..=(certificate.clone(), Generation(u64::MAX));
        let revoked = self.revocations.range(all).next_back().map(|((_, number), _)| *number);
        let present = present.max(standby.unwrap_or_default()).max(revoked.unwrap_or_default());
        let delivered = self.delivered(certificate).unwrap_or_default();
        // No agent can use up the numbers that there are.
        let believed = Generation(present.0.saturating_add(MOST_AHEAD));
        delivered.min(believed).max(present).next()
    }

    /// The highest generation of a certificate that an agent says it has had.
    pub fn delivered(&self, certificate: &CertName) -> Option<Generation> {
        let on_agents = self.deployments.values().filter_map(|table| table.get(certificate));
        on_agents.map(|deployment| deployment.record.delivered).max()
    }

    fn put(&mut self, entry: &Entry, touched: &mut Touched) {
        match self.try_put(entry, touched) {
            Ok(()) => {
                self.damaged.remove(&entry.key);
            }
            Err(error) => {
                tracing::error!(%error, "a stored record cannot be read; it is left as it is");
                self.damaged.insert(entry.key.clone(), error);
            }
        }
    }

    fn try_put(&mut self, entry: &Entry, touched: &mut Touched) -> Result<(), DecodeError> {
        let (folder, rest) = split(&entry.key);
        match folder {
            key::CERTIFICATES => {
                touch(&mut touched.certificates, insert(&mut self.certificates, rest, entry)?);
            }
            key::STATES => touch(&mut touched.certificates, insert(&mut self.states, rest, entry)?),
            key::BUNDLES => self.put_bundle(entry, touched)?,
            key::CHAINS => {
                let chain = record::decode::<Chain>(&entry.key, &entry.value)?;
                self.chains.insert(Fingerprint::of(&chain.der), chain.der.into());
            }
            key::STANDBYS => {
                touch(&mut touched.certificates, insert(&mut self.standbys, rest, entry)?);
            }
            key::RENEWAL_INFOS => {
                touch(&mut touched.certificates, insert(&mut self.renewal_infos, rest, entry)?);
            }
            key::ORDERS => touch(&mut touched.certificates, insert(&mut self.orders, rest, entry)?),
            key::CHALLENGES => {
                self.challenges.insert(rest.to_owned(), versioned(entry)?);
            }
            key::ISSUERS => {
                insert(&mut self.issuers, rest, entry)?;
                touched.issuers = true;
            }
            key::FREEZES => {
                insert(&mut self.freezes, rest, entry)?;
                touched.freezes = true;
            }
            key::ACCOUNTS => {
                insert(&mut self.accounts, rest, entry)?;
                touched.issuers = true;
            }
            key::BUDGETS => {
                insert(&mut self.budgets, rest, entry)?;
            }
            key::NEXT_KEYS => {
                touch(&mut touched.certificates, insert(&mut self.next_keys, rest, entry)?);
            }
            key::REVOCATIONS => self.put_revocation(versioned(entry)?, touched),
            key::AGENTS => touch(&mut touched.agents, insert(&mut self.agents, rest, entry)?),
            key::DEPLOYMENTS => {
                let deployment = versioned::<Deployment>(entry)?;
                let (agent, certificate) =
                    (deployment.record.agent.clone(), deployment.record.certificate.clone());
                touched.certificates.insert(certificate.clone());
                self.deployments.entry(agent).or_default().insert(certificate, deployment);
            }
            key::SERVICES => {
                insert(&mut self.services, rest, entry)?;
            }
            key::TOKENS => {
                self.tokens.insert(rest.to_owned(), versioned(entry)?);
            }
            key::EVENTS => {
                let event = versioned::<Event>(entry)?;
                self.events.insert(event.record.sequence, event.record);
            }
            key::AUTHORITY => self.authority = Some(versioned(entry)?),
            key::SEAL => {
                self.seal = Some(versioned(entry)?);
                touched.seal = true;
            }
            _ => return self.try_put_coordinators(folder, rest, entry, touched),
        }
        Ok(())
    }

    /// Only the newest bundle of a certificate counts.
    fn put_bundle(&mut self, entry: &Entry, touched: &mut Touched) -> Result<(), DecodeError> {
        let bundle = versioned::<Bundle>(entry)?;
        let name = bundle.record.certificate.clone();
        let known = self.bundles.get(&name);
        if known.is_none_or(|known| known.record.generation <= bundle.record.generation) {
            self.bundles.insert(name.clone(), bundle);
        }
        touched.certificates.insert(name);
        Ok(())
    }

    fn put_revocation(&mut self, revocation: Versioned<Revocation>, touched: &mut Touched) {
        let Revocation { certificate, generation, .. } = &*revocation.record;
        touched.certificates.insert(certificate.clone());
        touched.issuers = true;
        self.revocations.insert((certificate.clone(), *generation), revocation);
    }

    /// What is about the coordinators themselves.
    fn try_put_coordinators(
        &mut self,
        folder: &str,
        rest: &str,
        entry: &Entry,
        touched: &mut Touched,
    ) -> Result<(), DecodeError> {
        match folder {
            key::MEMBERS => {
                insert(&mut self.members, rest, entry)?;
                touched.members = true;
            }
            key::LEADER => {
                self.leader = Some(versioned(entry)?);
                touched.members = true;
            }
            // For the election only, which watches it by itself.
            key::NOMINATION => {}
            _ => tracing::debug!(key = entry.key, "ignoring a key of another version"),
        }
        Ok(())
    }

    fn delete(&mut self, at: &str, touched: &mut Touched) {
        self.damaged.remove(at);
        let (folder, rest) = split(at);
        match folder {
            key::CERTIFICATES => {
                touch(&mut touched.certificates, remove(&mut self.certificates, rest));
            }
            key::STATES => touch(&mut touched.certificates, remove(&mut self.states, rest)),
            key::BUNDLES => {
                let name = rest.split('/').next().unwrap_or_default();
                let shown = self.bundles.get(name);
                let same = shown.is_some_and(|shown| {
                    key::bundle(&shown.record.certificate, shown.record.generation) == at
                });
                if same {
                    touch(&mut touched.certificates, remove(&mut self.bundles, name));
                }
            }
            key::CHAINS => {
                if let Ok(fingerprint) = rest.parse::<Fingerprint>() {
                    self.chains.remove(&fingerprint);
                }
            }
            key::STANDBYS => touch(&mut touched.certificates, remove(&mut self.standbys, rest)),
            key::RENEWAL_INFOS => {
                touch(&mut touched.certificates, remove(&mut self.renewal_infos, rest));
            }
            key::ORDERS => touch(&mut touched.certificates, remove(&mut self.orders, rest)),
            key::CHALLENGES => {
                self.challenges.remove(rest);
            }
            key::ISSUERS => {
                self.issuers.remove(rest);
                touched.issuers = true;
            }
            key::FREEZES => {
                self.freezes.remove(rest);
                touched.freezes = true;
            }
            key::ACCOUNTS => {
                self.accounts.remove(rest);
                touched.issuers = true;
            }
            key::BUDGETS => {
                self.budgets.remove(rest);
            }
            key::NEXT_KEYS => touch(&mut touched.certificates, remove(&mut self.next_keys, rest)),
            key::REVOCATIONS => {
                self.revocations
                    .retain(|(name, generation), _| key::revocation(name, *generation) != at);
                touched.issuers = true;
            }
            key::AGENTS => touch(&mut touched.agents, remove(&mut self.agents, rest)),
            key::DEPLOYMENTS => self.delete_deployment(rest, touched),
            key::SERVICES => {
                self.services.remove(rest);
            }
            key::TOKENS => {
                self.tokens.remove(rest);
            }
            key::EVENTS => {
                if let Ok(sequence) = rest.parse() {
                    self.events.remove(&sequence);
                }
            }
            _ => self.delete_coordinators(at, touched),
        }
    }

    fn delete_coordinators(&mut self, at: &str, touched: &mut Touched) {
        let (folder, rest) = split(at);
        match folder {
            key::MEMBERS => {
                remove(&mut self.members, rest);
                touched.members = true;
            }
            key::LEADER => {
                self.leader = None;
                touched.members = true;
            }
            _ => tracing::debug!(key = at, "ignoring a key of another version"),
        }
    }

    fn delete_deployment(&mut self, rest: &str, touched: &mut Touched) {
        let Some((agent, certificate)) = rest.split_once('/') else { return };
        let Some(table) = self.deployments.get_mut(agent) else { return };
        touch(&mut touched.certificates, remove(table, certificate));
        if table.is_empty() {
            self.deployments.remove(agent);
        }
    }
}

/// The certificates whose distribution a commit may change.
pub(super) fn distributed(commit: &Commit) -> BTreeSet<String> {
    let changed = commit.changes.iter().map(|change| match change {
        Change::Put(entry) => entry.key.as_str(),
        Change::Delete { key } => key.as_str(),
    });
    changed
        .filter_map(|key| {
            let (folder, rest) = split(key);
            let name = rest.split('/').next().unwrap_or_default();
            matches!(folder, key::CERTIFICATES | key::BUNDLES).then(|| name.to_owned())
        })
        .collect()
}

/// A key as its folder, slash included, and the rest; a key without a slash is all folder.
fn split(key: &str) -> (&str, &str) {
    key.split_at(key.find('/').map_or(key.len(), |slash| slash + 1))
}

fn versioned<T: Record>(entry: &Entry) -> Result<Versioned<T>, DecodeError> {
    let record = Arc::new(record::decode(&entry.key, &entry.value)?);
    Ok(Versioned { record, revision: entry.revision })
}

fn insert<K, V>(
    table: &mut Table<K, V>,
    name: &str,
    entry: &Entry,
) -> Result<Option<K>, DecodeError>
where
    K: FromStr + Ord + Clone,
    K::Err: ToString,
    V: Record,
{
    let name: K = name.parse().map_err(|error: K::Err| DecodeError::Damaged {
        key: entry.key.clone(),
        kind: V::KIND,
        reason: error.to_string(),
    })?;
    table.insert(name.clone(), versioned(entry)?);
    Ok(Some(name))
}

fn remove<K, V>(table: &mut Table<K, V>, name: &str) -> Option<K>
where
    K: Ord + std::borrow::Borrow<str>,
{
    table.remove_entry(name).map(|(name, _)| name)
}

fn touch<K: Ord>(set: &mut BTreeSet<K>, name: Option<K>) {
    set.extend(name);
}

/// How often a listing that was overtaken by a compaction is begun again.
const TRIES: usize = 3;
/// More renewals than a certificate can have between a backup and its restore.
const MOST_AHEAD: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::record::DeploymentState;

    #[test]
    fn the_next_generation_is_above_what_any_agent_has_had() {
        let mut view = View::default();
        let www: CertName = "www".parse().unwrap();
        assert_eq!(view.next_generation(&www, Generation(4)), Generation(5));
        for (agent, delivered, next) in
            [("web-1", 3, 5), ("web-2", 9, 10), ("liar", u64::MAX, 4 + MOST_AHEAD + 1)]
        {
            let agent: AgentName = agent.parse().unwrap();
            let record = Arc::new(Deployment {
                agent: agent.clone(),
                certificate: www.clone(),
                state: DeploymentState::Installed,
                delivered: Generation(delivered),
                installed: Generation(delivered),
                served: Generation(delivered),
                message: String::new(),
                changed_at: Timestamp::UNIX_EPOCH,
                failures: 0,
            });
            let versioned = Versioned { record, revision: Revision(1) };
            view.deployments.insert(agent, BTreeMap::from([(www.clone(), versioned)]));
            assert_eq!(view.next_generation(&www, Generation(4)), Generation(next));
            let other = "api".parse().unwrap();
            assert_eq!(view.next_generation(&other, Generation(4)), Generation(5));
        }
    }
}
