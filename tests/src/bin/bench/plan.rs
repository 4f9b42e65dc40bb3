//! A year of fifty thousand certificates under a CA's limits, decided in virtual time.

use anyhow::{Result, ensure};
use chancery_shared::clock::{Clock as _, SystemClock};
use chancery_tests::year::Try;

use crate::report::{self, Report, Row};

const CERTIFICATES: usize = 50_000;

pub(crate) fn measure() -> Result<Report> {
    report::progress(&format!("a year of {CERTIFICATES} certificates"));
    let clock = SystemClock::new();
    let began = clock.monotonic();
    let outcome = Try::year(CERTIFICATES).run();
    let took = clock.monotonic().since(began).as_secs_f64();
    report::progress("the same without the budget, which has to fail");
    let without = Try { days: 40, budget: false, ..Try::year(CERTIFICATES) }.run();
    ensure!(!without.refused.is_empty(), "without the budget nothing was refused either");
    ensure!(outcome.refused.is_empty(), "the CA refused: {:#?}", outcome.refused);
    ensure!(outcome.expired.is_empty(), "expired or revoked: {:#?}", outcome.expired);
    #[expect(clippy::cast_precision_loss, reason = "a few millions at most")]
    let figure = |what, unit, number: u64| Row::new(what, unit, number as f64);
    let wait_hours = outcome.longest_wait_secs.unsigned_abs() / 3600;
    let rows = vec![
        figure("orders in the year", "", outcome.orders),
        figure("of those, replacements", "", outcome.replacements),
        figure("refused by the CA", "", 0).target("0"),
        figure("expired, or served when revoked", "", 0).target("0"),
        figure("busiest minute", "renewals", outcome.most_a_minute),
        figure(
            "busiest minute, revocation of a third",
            "renewals",
            outcome.most_a_minute_in_revocation,
        ),
        figure("held back by the limits", "times", outcome.held_back),
        figure("failed tries", "", outcome.failures),
        figure("declared at once: the last one came after", "h", wait_hours),
        Row::new("time to decide all of it", "s", took),
    ];
    let about = format!(
        "{CERTIFICATES} certificates of 90, 45 and 6 days, and 2,000 more at once, for a virtual year under \
         Let's Encrypt's limits; outages of 3, 6, 12 and 24 h; a third revoked"
    );
    Ok(Report::new("plan", about, rows))
}
