//! What runs on a machine: by its number, a coordinator or an agent.

use std::sync::Arc;

use super::{agent, clock::NodeClock, coordinator, kernel::Place, machine::Process, world::World};

/// A process.
pub enum Running {
    /// A coordinator.
    Coordinator(coordinator::Running),
    /// An agent.
    Agent(agent::Running),
}

impl Process for Running {
    fn start(world: &Arc<World>, place: &Place, clock: Arc<NodeClock>) -> Self {
        if place.node < world.coordinators {
            Self::Coordinator(coordinator::Running::start(world, place, clock))
        } else {
            Self::Agent(agent::Running::start(world, place, clock))
        }
    }

    fn terminate(&self) {
        match self {
            Self::Coordinator(running) => running.terminate(),
            Self::Agent(running) => running.terminate(),
        }
    }

    fn has_ended(&self) -> bool {
        match self {
            Self::Coordinator(running) => running.has_ended(),
            Self::Agent(running) => running.has_ended(),
        }
    }
}
