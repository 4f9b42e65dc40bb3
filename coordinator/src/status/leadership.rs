//! Who leads, and who is there.

use std::time::Duration;

use chancery_proto::v1::{Lease, Member, Renewal};
use chancery_shared::wire::to_timestamp;

use super::{Status, duration};
use crate::{election::Leadership, record};

impl Status {
    /// Who leads. What the leader record says of another coordinator is not confirmed: the record
    /// may outlive the lease.
    pub fn lease(&self) -> Lease {
        let own = self.leadership.borrow().clone();
        let view = self.mirror.read();
        let Some(leader) = view.leader.as_ref().map(|leader| &leader.record) else {
            return Lease::default();
        };
        let own = own.filter(|own| own.epoch() == leader.epoch && own.check().is_ok());
        // This node's own record without a lease is left over from an earlier life of it.
        let held = own.is_some() || leader.node != self.about.node;
        let mut lease = Lease {
            held,
            holder: leader.node.to_string(),
            epoch: leader.epoch.0,
            since: Some(to_timestamp(leader.since)),
            ttl: Some(duration(Duration::from_millis(leader.ttl_millis))),
            ..Lease::default()
        };
        match own {
            Some(own) => confirm(&mut lease, &own),
            None if held => {
                lease.message = format!("only {} knows whether it still holds it", leader.node);
            }
            None => {}
        }
        lease
    }

    /// The coordinators that are there. Of the others it says only what they have registered.
    pub fn members(&self) -> Vec<Member> {
        let lease = self.lease();
        let view = self.mirror.read();
        let members = view.members.values().map(|member| &*member.record);
        members.map(|member| self.member(member, &lease, view.revision.0)).collect()
    }

    fn member(&self, member: &record::Member, lease: &Lease, revision: u64) -> Member {
        let is_self = member.node == self.about.node;
        let leads = lease.held && lease.holder == member.node.as_str();
        let mut shown = Member {
            node: member.node.to_string(),
            role: if leads { "leader" } else { "follower" }.to_owned(),
            version: member.version.clone(),
            address: member.address.clone(),
            started_at: Some(to_timestamp(member.started_at)),
            is_self,
            ..Member::default()
        };
        if is_self {
            shown.reachable = true;
            shown.revision = revision;
            shown.behind_for = self.mirror.lost_for().map(duration);
        }
        shown
    }
}

/// Adds what the holder knows.
fn confirm(lease: &mut Lease, own: &Leadership) {
    lease.remaining = Some(duration(own.remaining()));
    lease.last_renewed = Some(to_timestamp(own.last_renewed()));
    lease.is_self = true;
    lease.confirmed = true;
    let renewal = |renewal: crate::election::Renewal| Renewal {
        at: Some(to_timestamp(renewal.at)),
        took: Some(duration(renewal.took)),
    };
    lease.renewals = own.renewals().into_iter().map(renewal).collect();
}
