//! A CA that counts as Let's Encrypt says that it does: tokens that come back one by one.

use std::collections::{HashMap, HashSet};

use chancery_coordinator::{
    plan::budget::{self, Limits, Rate},
    record::Bucket,
};
use chancery_shared::identifier::Identifier;

/// A bucket as the CA counts.
struct Tokens {
    rate: Rate,
    left: f64,
    seen: i64,
}

impl Tokens {
    #[expect(clippy::cast_precision_loss, reason = "a year has few seconds")]
    fn fill(&mut self, now: i64) {
        let back = (now - self.seen) as f64 * 1000.0 / self.rate.interval_millis() as f64;
        self.left = (self.left + back).min(f64::from(self.rate.count()));
        self.seen = now;
    }

    fn has(&mut self, now: i64) -> bool {
        self.fill(now);
        self.left > 1.0 - 1e-6
    }
}

/// The CA: what it counts, in its own way.
pub(super) struct Ca {
    pub(super) limits: Limits,
    tokens: HashMap<Bucket, Tokens>,
    pub(super) issued_sets: HashSet<Bucket>,
    pub(super) replaced: HashSet<String>,
    pub(super) serial: u64,
}

impl Ca {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            tokens: HashMap::new(),
            issued_sets: HashSet::new(),
            replaced: HashSet::new(),
            serial: 0,
        }
    }

    fn tokens(&mut self, bucket: Bucket, rate: Rate) -> &mut Tokens {
        let full = || Tokens { rate, left: f64::from(rate.count()), seen: 0 };
        self.tokens.entry(bucket).or_insert_with(full)
    }

    /// newOrder: what has no token, if anything.
    pub(super) fn order(
        &mut self,
        identifiers: &[Identifier],
        replaces: Option<&str>,
        now: i64,
    ) -> Result<(), String> {
        if let Some(serial) = replaces {
            let already = || format!("{serial} is replaced already");
            return if self.replaced.contains(serial) { Err(already()) } else { Ok(()) };
        }
        let set = budget::set_of(identifiers);
        let mut wanted = vec![(set.clone(), self.limits.certificates_per_set.unwrap())];
        if !self.issued_sets.contains(&set) {
            wanted.push((Bucket::Orders, self.limits.orders.unwrap()));
            let domain = Bucket::Domain(budget::registered_domain(&identifiers[0]));
            wanted.push((domain, self.limits.certificates_per_domain.unwrap()));
        }
        for (bucket, rate) in &wanted {
            if !self.tokens(bucket.clone(), *rate).has(now) {
                return Err(bucket.to_string());
            }
        }
        for identifier in identifiers {
            let failed = Bucket::Failed(identifier.clone());
            let rate = self.limits.failed_authorizations.unwrap();
            if !self.tokens(failed.clone(), rate).has(now) {
                return Err(failed.to_string());
            }
        }
        for (bucket, rate) in wanted {
            self.tokens(bucket, rate).left -= 1.0;
        }
        Ok(())
    }

    /// An order of which no certificate came: it does not count towards those.
    pub(super) fn failed(&mut self, identifiers: &[Identifier], now: i64) {
        let domain = Bucket::Domain(budget::registered_domain(&identifiers[0]));
        for bucket in [budget::set_of(identifiers), domain] {
            if let Some(tokens) = self.tokens.get_mut(&bucket) {
                tokens.left += 1.0;
            }
        }
        let rate = self.limits.failed_authorizations.unwrap();
        for identifier in identifiers {
            let tokens = self.tokens(Bucket::Failed(identifier.clone()), rate);
            tokens.fill(now);
            tokens.left -= 1.0;
        }
    }
}
