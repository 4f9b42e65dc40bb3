//! A node's way to the store: the real contract over a wire that loses, delays and fails.

use std::sync::Arc;

use async_trait::async_trait;
use chancery_coordinator::store::{
    Batch, Campaign, Candidate, Entry, Error, Fence, Health, Registered, Registration, Snapshot,
    Store, Watch,
};
use chancery_shared::number::Revision;
use tokio::sync::mpsc;

use super::{
    kernel::{Lost, Place},
    weather::Wire,
    world::{World, now},
};

/// The store as one life of a node sees it.
pub struct WiredStore {
    /// Where the store is.
    pub world: Arc<World>,
    /// Who asks.
    pub place: Place,
}

impl WiredStore {
    /// A call that changes something.
    async fn write<T: Send + 'static>(
        &self,
        effect: impl FnOnce(&World, usize) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        match self.call(effect).await {
            Ok(result) => result,
            Err(Lost::Refused) => Err(Error::Unavailable("the wire is down".to_owned())),
            Err(Lost::Unknown) => Err(Error::OutcomeUnknown("no answer in time".to_owned())),
        }
    }

    /// A call that changes nothing.
    async fn read<T: Send + 'static>(
        &self,
        effect: impl FnOnce(&World, usize) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        match self.call(effect).await {
            Ok(result) => result,
            Err(_) => Err(Error::Unavailable("no answer in time".to_owned())),
        }
    }

    async fn call<T: Send + 'static>(
        &self,
        effect: impl FnOnce(&World, usize) -> T + Send + 'static,
    ) -> Result<T, Lost> {
        let (world, node) = (self.world.clone(), self.place.node);
        let call =
            self.world.kernel.call(&self.place, Wire::Store(node), move || effect(&world, node));
        call.await
    }
}

#[async_trait]
impl Store for WiredStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        let key = key.to_owned();
        let get = move |world: &World, node| {
            world.note(node, || format!("get {key}"));
            now(world.store.get(&key))
        };
        self.read(get).await
    }

    async fn list(&self, prefix: &str) -> Result<Snapshot, Error> {
        let prefix = prefix.to_owned();
        let list = move |world: &World, node| {
            world.note(node, || format!("list {prefix:?}"));
            now(world.store.list(&prefix))
        };
        self.read(list).await
    }

    async fn commit(&self, batch: Batch) -> Result<Revision, Error> {
        self.write(move |world, node| world.commit(Some(node), batch)).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        let prefix = prefix.to_owned();
        let mut stream = self.read(move |world, node| world.watch(node, &prefix, after)).await?;
        let (told, commits) = mpsc::channel(WATCH_QUEUE);
        let place = self.place.clone();
        tokio::spawn(async move {
            while let Some((at, commit)) = stream.recv().await {
                place.until(at).await;
                if told.send(commit).await.is_err() {
                    return;
                }
            }
        });
        Ok(Watch::new(commits))
    }

    async fn campaign(&self, candidate: &Candidate) -> Result<Campaign, Error> {
        let candidate = candidate.clone();
        self.write(move |world, node| world.campaign(node, &candidate)).await
    }

    async fn keep_alive(&self, fence: &Fence) -> Result<(), Error> {
        let fence = fence.clone();
        self.write(move |world, node| world.about_lease(node, &fence, false)).await
    }

    async fn resign(&self, fence: &Fence) -> Result<(), Error> {
        let fence = fence.clone();
        self.write(move |world, node| world.about_lease(node, &fence, true)).await
    }

    async fn register(&self, registration: &Registration) -> Result<Registered, Error> {
        let registration = registration.clone();
        self.write(move |world, _| world.stir(|store| now(store.register(&registration)))).await
    }

    async fn keep_registered(&self, registered: &Registered) -> Result<(), Error> {
        let registered = registered.clone();
        self.write(move |world, _| world.stir(|store| now(store.keep_registered(&registered))))
            .await
    }

    async fn deregister(&self, registered: &Registered) -> Result<(), Error> {
        let registered = registered.clone();
        self.write(move |world, _| world.stir(|store| now(store.deregister(&registered)))).await
    }

    async fn health(&self) -> Result<Health, Error> {
        self.read(|world, _| now(world.store.health())).await
    }

    fn kind(&self) -> &'static str {
        "simulated"
    }
}

const WATCH_QUEUE: usize = 64;
