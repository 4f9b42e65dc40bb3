//! Named places where a test may kill the process.
//!
//! With the `failpoints` feature, `FAILPOINTS='order::placed=return'` makes the
//! process send itself SIGKILL at the place of that name: no destructor, no flush,
//! no goodbye. `pause` instead of `return` makes it stop there so that a test can
//! look around. Without the feature, as in every released binary, a call is empty.

/// Dies here if a test asked for it.
#[inline]
pub fn crash_point(name: &str) {
    #[cfg(feature = "failpoints")]
    {
        let _: Option<()> = fail::eval(name, |_| {
            let this = rustix::process::getpid();
            let _ = rustix::process::kill_process(this, rustix::process::Signal::KILL);
        });
    }
    #[cfg(not(feature = "failpoints"))]
    let _ = name;
}

/// Reads `FAILPOINTS` from the environment. Call it once, at the start of `main`,
/// and keep the result alive as long as the process.
#[must_use = "the crash points are disarmed when this is dropped"]
pub fn arm() -> impl Sized {
    #[cfg(feature = "failpoints")]
    let armed = fail::FailScenario::setup();
    #[cfg(not(feature = "failpoints"))]
    let armed = Unarmable;
    armed
}

/// What there is to keep alive where nothing can be armed.
#[cfg(not(feature = "failpoints"))]
struct Unarmable;
