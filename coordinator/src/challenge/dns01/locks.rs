//! One at a time for each name.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// Locks, one for each key that somebody holds or waits for.
#[derive(Debug, Default)]
pub(super) struct Locks {
    held: Mutex<HashMap<String, Arc<AsyncMutex<()>>>>,
}

impl Locks {
    /// Waits until nobody else holds `key`.
    pub(super) async fn lock(&self, key: String) -> OwnedMutexGuard<()> {
        let lock = {
            let mut held = self.held.lock().expect("no holder panics");
            // Ours is the only reference left to what nobody uses.
            held.retain(|_, lock| Arc::strong_count(lock) > 1);
            held.entry(key).or_default().clone()
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_name_is_held_by_one_at_a_time_and_forgotten_afterwards() {
        let locks = Locks::default();
        let held = locks.lock("a".to_owned()).await;
        assert!(locks.lock("a".to_owned()).now_or_never().is_none());
        let other = locks.lock("b".to_owned()).now_or_never();
        assert!(other.is_some());
        drop((held, other));
        drop(locks.lock("a".to_owned()).await);
        drop(locks.lock("c".to_owned()).await);
        assert_eq!(locks.held.lock().unwrap().len(), 1);
    }
}
