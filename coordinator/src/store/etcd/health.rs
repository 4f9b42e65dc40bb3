//! How the members are, for operators.

use std::time::Duration;

use etcd_client::{AlarmAction, AlarmType, StatusResponse};
use futures_util::future::join_all;
use tokio::time::timeout;

use super::{EtcdStore, Health, failure::Failure, pool::Endpoint as Member};
use crate::store;

impl EtcdStore {
    pub(super) async fn examine(&self) -> Health {
        let patience = (self.pool.timeout() / 2).min(LONGEST_LOOK);
        let asked = self.pool.endpoints().iter().map(|member| ask(member, patience));
        let (answers, alarms, quorum) =
            tokio::join!(join_all(asked), self.alarms(patience), timeout(patience, self.current()));
        let statuses: Vec<&StatusResponse> =
            answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
        let mut warnings = alarms;
        if !matches!(quorum, Ok(Ok(_))) {
            warnings.push(
                "etcd cannot be read by quorum: most members are away, cut off or overloaded"
                    .to_owned(),
            );
        }
        warnings.extend(statuses.iter().find_map(|status| nearly_full(status)));
        let versions = versions(&statuses);
        warnings.extend(versions.iter().filter_map(|version| too_old(version)));
        let endpoints = self.pool.endpoints().iter().zip(&answers);
        let endpoints = endpoints.map(|(member, answer)| endpoint(member, answer)).collect();
        Health { version: versions.join(", "), endpoints, warnings }
    }

    async fn alarms(&self, patience: Duration) -> Vec<String> {
        let ask = self.pool.repeat(patience, |handle| async move {
            let mut client = handle.client.maintenance_client();
            let alarms = client.alarm(AlarmAction::Get, AlarmType::None, None).await;
            alarms.map_err(|error| Failure::of(&error))
        });
        // A user may be without the right to ask; that is no news.
        let Ok(Ok(response)) = timeout(patience, ask).await else { return Vec::new() };
        let mut warnings: Vec<String> =
            response.alarms().iter().filter_map(|alarm| words(alarm.alarm())).collect();
        warnings.dedup();
        warnings
    }
}

async fn ask(member: &Member, patience: Duration) -> Result<StatusResponse, Failure> {
    let status = member.attempt(&|handle: super::pool::Handle| async move {
        let status = handle.client.maintenance_client().status().await;
        status.map_err(|error| Failure::of(&error))
    });
    timeout(patience, status).await.unwrap_or_else(|_| Err(Failure::timed_out()))
}

fn words(alarm: AlarmType) -> Option<String> {
    match alarm {
        AlarmType::None => None,
        AlarmType::Nospace => Some(
            "alarm NOSPACE: etcd takes no writes; compact and defragment it or raise its quota, then run \
             `etcdctl alarm disarm`"
                .to_owned(),
        ),
        AlarmType::Corrupt => {
            Some("alarm CORRUPT: the members do not hold the same data; restore the one that differs".to_owned())
        }
    }
}

fn endpoint(member: &Member, answer: &Result<StatusResponse, Failure>) -> store::Endpoint {
    let address = member.address.clone();
    match answer {
        Err(failure) => {
            let own = format!("{address}: ");
            let reason = failure.reason.strip_prefix(&own).unwrap_or(&failure.reason);
            store::Endpoint { address, healthy: false, message: reason.to_owned() }
        }
        Ok(status) => {
            let member = status.header().map_or(0, etcd_client::ResponseHeader::member_id);
            let role = match status.leader() {
                0 => "without a leader",
                leader if leader == member => "leader",
                _ if status.is_learner() => "learner",
                _ => "follower",
            };
            let mut message = format!(
                "{role}, version {}, {} used, raft term {}",
                status.version(),
                mebibytes(status.db_size()),
                status.raft_term()
            );
            for error in status.errors() {
                message.push_str("; ");
                message.push_str(error);
            }
            store::Endpoint { address, healthy: status.leader() != 0, message }
        }
    }
}

fn versions(statuses: &[&StatusResponse]) -> Vec<String> {
    let mut versions: Vec<_> = statuses.iter().map(|status| status.version().to_owned()).collect();
    versions.sort();
    versions.dedup();
    versions
}

fn too_old(version: &str) -> Option<String> {
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    let (major, minor) = (numbers.next()?, numbers.next()?);
    ((major, minor) < (3, 4))
        .then(|| format!("etcd {version} is older than 3.4, the oldest supported"))
}

fn nearly_full(status: &StatusResponse) -> Option<String> {
    // Older versions do not tell their quota.
    let (quota, of) = match status.db_size_quota() {
        0 => (DEFAULT_QUOTA, "etcd's default quota"),
        quota => (quota, "etcd's quota"),
    };
    let nearly = status.db_size() > quota / 5 * 4;
    nearly.then(|| {
        let (used, quota) = (mebibytes(status.db_size()), mebibytes(quota));
        format!("{used} of {of} of {quota} are used; compact and defragment it, or raise its quota")
    })
}

fn mebibytes(bytes: i64) -> String {
    let kibibytes = bytes / 1024;
    format!("{}.{} MiB", kibibytes / 1024, kibibytes % 1024 * 10 / 1024)
}

const LONGEST_LOOK: Duration = Duration::from_secs(2);
/// `--quota-backend-bytes` unless given.
const DEFAULT_QUOTA: i64 = 2 * 1024 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_before_3_4_are_named() {
        assert!(too_old("3.3.25").is_some());
        assert!(too_old("2.3.0").is_some());
        for fine in ["3.4.0", "3.5.16", "3.6.0-rc.1", "4.0.0", "unknown"] {
            assert_eq!(too_old(fine), None, "{fine}");
        }
    }

    #[test]
    fn sizes_are_told_in_mebibytes() {
        assert_eq!(mebibytes(0), "0.0 MiB");
        assert_eq!(mebibytes(20_480), "0.0 MiB");
        assert_eq!(mebibytes(1_572_864), "1.5 MiB");
        assert_eq!(mebibytes(DEFAULT_QUOTA), "2048.0 MiB");
    }
}
