//! What an agent does to local services: test, reload, probe; and the order of it all.

mod activate;
mod command;
mod host;
mod probe;
mod reload;

pub(crate) use self::activate::{Activator, Failure, Outcome, Ran, Subject};
pub use self::host::Host;
pub(crate) use self::host::ThisHost;
