//! Counters that only grow.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! counter {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $type(pub u64);

        impl $type {
            /// The one after this.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter! {
    /// Number of a term of leadership, strictly increasing over the life of a store.
    /// The store accepts no write from an epoch older than the current one.
    Epoch
}
counter! {
    /// Number of a bundle of one certificate. 0 stands for "none yet".
    Generation
}
counter! {
    /// Number of a commit to the store. All keys share one sequence.
    Revision
}
