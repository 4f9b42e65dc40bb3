//! A machine: a runtime of its own for each life of the process on it, so that the process can be
//! killed with all that it has under way, or stopped while time goes on for the others.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::runtime::{Builder, Runtime};

use super::{
    clock::{NodeClock, Quartz},
    kernel::Place,
    world::World,
};

/// A machine on which one process runs, or does not.
pub struct Machine<P> {
    /// Its number.
    pub node: usize,
    /// What is wrong with its clocks.
    pub quartz: Quartz,
    life: Option<Life<P>>,
    paused: bool,
}

/// One life of a process.
struct Life<P> {
    // Before the runtime, so that what the process holds goes while the runtime is there.
    process: P,
    place: Place,
    runtime: Runtime,
}

/// What a process has to be for a machine to run it.
pub trait Process: Sized {
    /// Starts it; called within its runtime.
    fn start(world: &Arc<World>, place: &Place, clock: Arc<NodeClock>) -> Self;

    /// SIGTERM; called within its runtime.
    fn terminate(&self);

    /// Whether it has ended by itself.
    fn has_ended(&self) -> bool;
}

impl<P: Process> Machine<P> {
    /// A machine on which nothing runs yet.
    pub fn new(node: usize, quartz: Quartz) -> Self {
        Self { node, quartz, life: None, paused: false }
    }

    /// The process, if one runs.
    pub fn process(&self) -> Option<&P> {
        self.life.as_ref().map(|life| &life.process)
    }

    /// Starts the process, unless it runs.
    pub fn start(&mut self, world: &Arc<World>) {
        if self.life.is_some() {
            return;
        }
        let mut builder = Builder::new_current_thread();
        let runtime =
            builder.enable_time().start_paused(true).build().expect("a runtime can be made");
        let (node, began) = (self.node, world.kernel.now());
        world.note(node, || "starts".to_owned());
        let (place, process) = world.kernel.step_back(|| {
            runtime.block_on(async {
                let origin = tokio::time::Instant::now();
                let place = Place { node, began, origin };
                let (kernel, quartz) = (world.kernel.clone(), self.quartz.clone());
                let looks = Mutex::default();
                let clock = Arc::new(NodeClock { place: place.clone(), kernel, quartz, looks });
                let process = P::start(world, &place, clock);
                (place, process)
            })
        });
        self.life = Some(Life { process, place, runtime });
    }

    /// kill -9: nothing that the process has under way goes on, but for what is on the wire.
    pub fn crash(&mut self, world: &World, what: &str) {
        let Some(life) = self.life.take() else { return };
        world.note(self.node, || what.to_owned());
        world.bury(self.node);
        self.set_paused(world, false);
        drop(life);
    }

    /// SIGSTOP.
    pub fn pause(&mut self, world: &World) {
        if self.life.is_some() && !self.paused {
            world.note(self.node, || "is stopped".to_owned());
            self.set_paused(world, true);
        }
    }

    /// SIGCONT. All its timers that have come meanwhile fire at once.
    pub fn resume(&mut self, world: &World) {
        if !self.paused {
            return;
        }
        self.set_paused(world, false);
        let Some(life) = &self.life else { return };
        world.note(self.node, || "goes on".to_owned());
        let now = world.kernel.now();
        world.kernel.step_back(|| {
            life.runtime.block_on(async {
                let missed = now.saturating_sub(life.place.now());
                tokio::time::advance(missed).await;
            });
        });
    }

    /// SIGTERM.
    pub fn terminate(&self, world: &World) {
        if let Some(life) = &self.life {
            world.note(self.node, || "is told to end".to_owned());
            let _inside = life.runtime.enter();
            life.process.terminate();
        }
    }

    /// Runs the process until `end`. Whether it has ended by itself.
    pub fn run_until(&mut self, world: &World, end: Duration) -> bool {
        let Some(life) = self.life.as_ref().filter(|_| !self.paused) else { return false };
        world.kernel.step_back(|| life.runtime.block_on(life.place.until(end)));
        life.process.has_ended()
    }

    fn set_paused(&mut self, world: &World, paused: bool) {
        self.paused = paused;
        world.set_paused(self.node, paused);
    }
}
