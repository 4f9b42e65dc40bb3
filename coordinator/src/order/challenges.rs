//! The challenges of an order: which are answered, and when the CA is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

use chancery_shared::{
    challenge_type::ChallengeType, failpoint::crash_point, identifier::Identifier,
};
use instant_acme::{
    AuthorizationHandle, AuthorizationStatus, ChallengeStatus, ChallengeType as AcmeChallengeType,
    OrderStatus,
};
use jiff::Timestamp;

use super::{
    AnswersWith, Error,
    account::Account,
    drive::{Drive, known},
    persist,
};
use crate::{
    challenge::{
        dns01::{self, Owner, Place},
        tls_alpn01,
    },
    events::printable,
    record::{Challenge, StandingRecord},
};

impl Drive<'_> {
    /// Finds the answers of all pending challenges and stores them. Nothing that a CA looks at is
    /// touched before they are stored.
    pub(super) async fn present(&mut self) -> Result<(), Error> {
        let mut answers = BTreeMap::new();
        let order = &self.entry.order;
        let (id, certificate) = (order.id, order.certificate.clone());
        let mut unseen: BTreeSet<Identifier> = order.identifiers.iter().cloned().collect();
        let preferred = ChallengeType::preferred(&order.challenges);
        let now = self.orders.clock.now();
        let with = With { answers: &self.orders.answers_with, account: self.account, now };
        let mut authorizations = known(&mut self.at_ca)?.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            let identifier = identifier(&authorization)?;
            if !unseen.remove(&identifier) {
                let reason = "which was not ordered, or has one already";
                return Err(Error::BadIssuance(format!(
                    "authorization for {identifier}, {reason}"
                )));
            }
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            let Chosen { challenge_type, place, standing } =
                choose(&authorization, &identifier, preferred, &with).await?;
            let Some(challenge) = authorization.challenge(acme(challenge_type)) else { continue };
            let token = token_of(&challenge);
            if !is_token(&token) {
                let token = printable(&token, 100);
                return Err(Error::BadIssuance(format!("no challenge token: {token:?}")));
            }
            let key_authorization = match standing {
                None => challenge.key_authorization().as_str().to_owned(),
                // Nobody is asked for one.
                Some(_) => String::new(),
            };
            let answer = Challenge {
                order: id,
                certificate: certificate.clone(),
                identifier,
                challenge_type,
                txt: place.map(|place| place.txt(&key_authorization)),
                standing,
                key_authorization,
                left: Vec::new(),
            };
            if answers.insert(token, answer).is_some() {
                let reason = "two authorizations have the same challenge token".to_owned();
                return Err(Error::BadIssuance(reason));
            }
        }
        let entry = self.entry.clone();
        self.entry = self.orders.journal.present(self.leadership, entry, answers).await?;
        crash_point("order::presented");
        Ok(())
    }

    /// Tells the CA that it can look, for each challenge that it has not looked at, then
    /// waits until it has. Whatever answers for us has the answer before that.
    pub(super) async fn validate(&mut self) -> Result<(), Error> {
        // Our own listener has to serve the answers, also if a former leader has stored them.
        self.orders.mirror.wait_for(self.entry.revision).await;
        let presented = self.presented();
        if presented.values().any(|challenge| challenge.txt.is_some()) {
            self.present_in_dns(&presented).await?;
            crash_point("order::in-dns");
        }
        self.confirm_standing(&presented).await?;
        if presented
            .values()
            .any(|challenge| challenge.txt.is_none() && challenge.standing.is_none())
        {
            // The CA may ask any coordinator.
            self.orders.peers.caught_up(self.entry.revision).await;
        }
        presented.values().try_for_each(|challenge| self.check_name_is_free(challenge))?;
        let mut authorizations = known(&mut self.at_ca)?.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            // A CA may give all challenges of an authorization the same token.
            let ours = authorization.challenges.iter().find(|challenge| {
                presented
                    .get(&token_of(challenge))
                    .is_some_and(|presented| acme(presented.challenge_type) == challenge.r#type)
            });
            let Some(ours) = ours.map(|challenge| challenge.r#type.clone()) else {
                return self.present_again().await;
            };
            if let Some(mut challenge) = authorization.challenge(ours)
                && challenge.status == ChallengeStatus::Pending
            {
                self.leadership.check().map_err(|_| Error::SteppedDown)?;
                challenge.set_ready().await?;
            }
        }
        crash_point("order::told-ready");
        self.await_change(OrderStatus::Pending).await
    }

    /// A former leader has died between two steps of presenting. That happens once at most, however
    /// often the CA tells something new.
    async fn present_again(&mut self) -> Result<(), Error> {
        if mem::replace(&mut self.presented_again, true) {
            let reason = "its challenges are not those that were presented a moment ago".to_owned();
            return Err(Error::BadIssuance(reason));
        }
        self.present().await
    }

    /// Over TLS-ALPN-01 only the first of several orders is answered for a name.
    fn check_name_is_free(&self, challenge: &Challenge) -> Result<(), Error> {
        let identifier = &challenge.identifier;
        let taken = || {
            let view = self.orders.mirror.read();
            tls_alpn01::taken_by_another(&view, challenge)
        };
        if challenge.challenge_type == ChallengeType::TlsAlpn01 && taken() {
            return Err(Error::NameTaken { identifier: identifier.clone() });
        }
        Ok(())
    }

    /// The challenges that stand in the store for this order, by token.
    fn presented(&self) -> BTreeMap<String, Arc<Challenge>> {
        let view = self.orders.mirror.read();
        let tokens = self.entry.order.stage.tokens().iter();
        tokens
            .filter_map(|token| {
                let challenge = view.challenges.get(token)?;
                Some((token.clone(), challenge.record.clone()))
            })
            .collect()
    }

    async fn present_in_dns(
        &self,
        presented: &BTreeMap<String, Arc<Challenge>>,
    ) -> Result<(), Error> {
        let Some(dns01) = &self.orders.answers_with.dns01 else {
            return Err(no_dns01(presented).into());
        };
        // Held as well: a hand-over waits for what is on the wire, so that the successor finds it.
        let still = || self.leadership.hold().map_err(|_| Error::SteppedDown);
        tokio::select! {
            biased;
            () = self.leadership.ended() => Err(Error::SteppedDown),
            done = dns01.present(presented, still) => done,
        }
    }

    /// Looks whether what operators keep in the DNS is there, also after a former leader has.
    async fn confirm_standing(
        &self,
        presented: &BTreeMap<String, Arc<Challenge>>,
    ) -> Result<(), Error> {
        let now = self.orders.clock.now();
        for record in presented.values().filter_map(|challenge| challenge.standing.as_ref()) {
            let dns01 = self.orders.answers_with.dns01.as_ref().ok_or_else(cannot_ask)?;
            dns01.confirm(record, now).await?;
        }
        Ok(())
    }
}

/// What is to be answered, and with what.
struct Chosen {
    challenge_type: ChallengeType,
    /// Where, for DNS-01.
    place: Option<Place>,
    /// What has to be there already, for dns-persist-01.
    standing: Option<StandingRecord>,
}

impl Chosen {
    fn served(challenge_type: ChallengeType) -> Self {
        Self { challenge_type, place: None, standing: None }
    }
}

/// The first of the preferred challenges that is offered for `identifier` and can be answered.
async fn choose(
    authorization: &AuthorizationHandle<'_>,
    identifier: &Identifier,
    preferred: &[ChallengeType],
    with: &With<'_>,
) -> Result<Chosen, Error> {
    let allowed: Vec<ChallengeType> =
        preferred.iter().copied().filter(|allowed| allowed.can_validate(identifier)).collect();
    let mut passed_over: Option<Error> = None;
    for challenge_type in &allowed {
        let wanted = acme(*challenge_type);
        if !authorization.challenges.iter().any(|offered| offered.r#type == wanted) {
            continue;
        }
        match challenge_type {
            ChallengeType::Http01 => return Ok(Chosen::served(ChallengeType::Http01)),
            ChallengeType::TlsAlpn01 if with.answers.tls_alpn01 => {
                return Ok(Chosen::served(ChallengeType::TlsAlpn01));
            }
            // The next challenge is there for what cannot be answered.
            ChallengeType::TlsAlpn01 => {
                passed_over.get_or_insert(Error::NoTlsAlpn01 { identifier: identifier.clone() });
            }
            ChallengeType::Dns01 | ChallengeType::DnsAccount01 => {
                match with.place(*challenge_type, identifier).await {
                    Ok(place) => {
                        return Ok(Chosen {
                            place: Some(place),
                            ..Chosen::served(*challenge_type)
                        });
                    }
                    Err(error @ dns01::Error::NoProvider { .. }) => {
                        passed_over.get_or_insert(error.into());
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            ChallengeType::DnsPersist01 => {
                match with.standing(authorization.url(), identifier).await {
                    Ok(record) => {
                        let standing = Some(record);
                        return Ok(Chosen { standing, ..Chosen::served(*challenge_type) });
                    }
                    Err(error @ Error::Dns(dns01::Error::NotStanding { .. })) => {
                        passed_over.get_or_insert(error);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }
    if let Some(error) = passed_over {
        return Err(error);
    }
    let offered = authorization.challenges.iter().map(|offered| name_of(&offered.r#type));
    Err(Error::NoChallenge {
        identifier: identifier.to_string(),
        offered: offered.collect::<Vec<_>>().join(", "),
        allowed: allowed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    })
}

/// What challenges are answered with, and for whom.
struct With<'a> {
    answers: &'a AnswersWith,
    account: &'a Account,
    now: Timestamp,
}

impl With<'_> {
    async fn place(
        &self,
        challenge_type: ChallengeType,
        identifier: &Identifier,
    ) -> Result<Place, dns01::Error> {
        let owner = match challenge_type {
            ChallengeType::DnsAccount01 => Owner::Account(self.account.id()),
            _ => Owner::Everybody,
        };
        let Some(dns01) = &self.answers.dns01 else {
            let (identifier, name) = (identifier.clone(), owner.name(identifier));
            let known = "none is configured".to_owned();
            return Err(dns01::Error::NoProvider { identifier, name, known });
        };
        dns01.place(owner, identifier).await
    }

    /// What has to stand in the DNS, and does.
    async fn standing(&self, url: &str, identifier: &Identifier) -> Result<StandingRecord, Error> {
        let record = persist::standing(self.account, url, identifier).await?;
        let dns01 = self.answers.dns01.as_ref().ok_or_else(cannot_ask)?;
        dns01.confirm(&record, self.now).await?;
        Ok(record)
    }
}

fn cannot_ask() -> Error {
    Error::BadIssuer("this coordinator cannot ask the DNS".to_owned())
}

/// What a challenge stands under in the journal.
fn token_of(challenge: &instant_acme::Challenge) -> String {
    if challenge.r#type == acme(ChallengeType::DnsPersist01) {
        persist::token(&challenge.url)
    } else {
        challenge.token.clone()
    }
}

/// Another coordinator, which led before, was configured for DNS-01; this one is not.
fn no_dns01(presented: &BTreeMap<String, Arc<Challenge>>) -> dns01::Error {
    let mut named = presented.values().filter_map(|challenge| challenge.txt.as_ref());
    let txt = named.next().expect("only asked for when there is one");
    dns01::Error::UnknownProvider(txt.provider.clone())
}

/// What the authorization is for: a wildcard's names the domain, and has a mark (RFC 8555 section 7.1.4).
fn identifier(authorization: &AuthorizationHandle<'_>) -> Result<Identifier, Error> {
    let text = authorization.identifier().to_string();
    text.parse().map_err(|_| Error::BadIssuance(format!("authorization for {text}")))
}

fn acme(challenge_type: ChallengeType) -> AcmeChallengeType {
    match challenge_type {
        ChallengeType::Http01 => AcmeChallengeType::Http01,
        ChallengeType::Dns01 => AcmeChallengeType::Dns01,
        ChallengeType::DnsAccount01 | ChallengeType::DnsPersist01 => {
            AcmeChallengeType::Unknown(challenge_type.to_string())
        }
        ChallengeType::TlsAlpn01 => AcmeChallengeType::TlsAlpn01,
    }
}

/// Whether this is a token (RFC 8555 section 8.1): base64url, at least 128 bits. It becomes a key in the store
/// and a path for the CA, and comes from outside.
fn is_token(text: &str) -> bool {
    (22..=LONGEST_TOKEN).contains(&text.len())
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_')
}

/// As the RFC calls it.
fn name_of(challenge_type: &AcmeChallengeType) -> String {
    match challenge_type {
        AcmeChallengeType::Http01 => "http-01".to_owned(),
        AcmeChallengeType::Dns01 => "dns-01".to_owned(),
        AcmeChallengeType::TlsAlpn01 => "tls-alpn-01".to_owned(),
        AcmeChallengeType::Unknown(name) => printable(name, 100),
        other => format!("{other:?}").to_lowercase(),
    }
}

const LONGEST_TOKEN: usize = 256;
