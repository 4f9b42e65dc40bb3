//! The registrations of a store that lives in one process. Their leases are in memory: they
//! cannot outlive the only process that could hold them.

use std::{collections::BTreeMap, time::Duration};

use chancery_shared::clock::Monotonic;

use super::{Error, Registered, Registration};

/// Who has registered what, and until when.
#[derive(Debug, Default)]
pub(super) struct Registrations {
    by_key: BTreeMap<String, Granted>,
    last: u64,
}

#[derive(Debug)]
struct Granted {
    lease: String,
    ttl: Duration,
    expires: Monotonic,
}

impl Registrations {
    /// Grants a registration, in place of the former one of its key.
    pub(super) fn grant(&mut self, registration: &Registration, now: Monotonic) -> Registered {
        self.last += 1;
        let (key, lease) = (registration.key.clone(), self.last.to_string());
        let (ttl, expires) = (registration.ttl, now.after(registration.ttl));
        self.by_key.insert(key.clone(), Granted { lease: lease.clone(), ttl, expires });
        Registered { key, lease }
    }

    /// Extends a registration, counted from `now`.
    pub(super) fn keep_alive(
        &mut self,
        registered: &Registered,
        now: Monotonic,
    ) -> Result<(), Error> {
        match self.by_key.get_mut(&registered.key) {
            Some(granted) if granted.lease == registered.lease && now < granted.expires => {
                granted.expires = now.after(granted.ttl);
                Ok(())
            }
            _ => Err(Error::Expired { key: registered.key.clone() }),
        }
    }

    /// Whether the record at the key is still that of `registered`.
    pub(super) fn is_current(&self, registered: &Registered) -> bool {
        self.by_key.get(&registered.key).is_some_and(|granted| granted.lease == registered.lease)
    }

    /// Forgets the registration of `key`, whose record was deleted.
    pub(super) fn release(&mut self, key: &str) {
        self.by_key.remove(key);
    }

    /// The keys whose time is over at `now`: their records have to be deleted.
    pub(super) fn expired(&self, now: Monotonic) -> Vec<String> {
        let is_over = |(_, granted): &(&String, &Granted)| granted.expires <= now;
        self.by_key.iter().filter(is_over).map(|(key, _)| key.clone()).collect()
    }
}
