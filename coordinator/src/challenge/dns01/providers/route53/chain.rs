//! Route 53 with the credentials of AWS's standard chain. They may change at any time (those of roles do
//! every few hours), so the chain is asked before each change; where they stand is the SDK's business.

use async_trait::async_trait;
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_credential_types::provider::{ProvideCredentials as _, error::CredentialsError};
use chancery_shared::secret::Secret;
use dns_update::DnsUpdater;
use tokio::sync::OnceCell;

use super::super::{
    super::{Failure, Provider, Txt},
    Settings, text_of,
    through::{Manners, Updater},
};

/// Route 53, and how to find credentials.
#[derive(Debug)]
struct Route53 {
    updater: Updater,
    profile: Option<String>,
    chain: OnceCell<DefaultCredentialsChain>,
}

pub(super) fn build(
    settings: &Settings,
    manners: Manners,
) -> Result<Box<dyn Provider>, Vec<String>> {
    let make = super::updater(settings);
    let make = move |secrets: &[Secret]| {
        let text = |index: usize| text_of(&secrets[index]).map(str::to_owned);
        make(text(0)?, text(1)?, if secrets.len() > 2 { Some(text(2)?) } else { None })
    };
    let source = "AWS's standard credential chain".to_owned();
    let updater = Updater::from_elsewhere(settings, source, manners, make);
    let updater = updater.map_err(|problem| vec![problem])?;
    let profile = settings.owned("profile");
    Ok(Box::new(Route53 { updater, profile, chain: OnceCell::new() }))
}

#[async_trait]
impl Provider for Route53 {
    async fn present(&self, txt: &Txt<'_>) -> Result<(), Failure> {
        self.updater.add_by(&self.current().await?, txt).await
    }

    async fn cleanup(&self, txt: &Txt<'_>) -> Result<(), Failure> {
        self.updater.remove_by(&self.current().await?, txt).await
    }
}

impl Route53 {
    async fn current(&self) -> Result<DnsUpdater, Failure> {
        let chain = self.chain.get_or_init(|| async {
            let builder = DefaultCredentialsChain::builder();
            match &self.profile {
                Some(profile) => builder.profile_name(profile).build().await,
                None => builder.build().await,
            }
        });
        let found = chain.await.provide_credentials().await.map_err(|error| explain(&error))?;
        let parts =
            [Some(found.access_key_id()), Some(found.secret_access_key()), found.session_token()];
        let secret = |text: &str| Secret::new(text.as_bytes().to_vec());
        let secrets = parts.into_iter().flatten().map(secret).collect();
        self.updater.made_of(secrets).map_err(Failure::Refused)
    }
}

fn explain(error: &CredentialsError) -> Failure {
    let mut said = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        said = format!("{said}: {error}");
        source = error.source();
    }
    match error {
        CredentialsError::ProviderTimedOut(_) | CredentialsError::ProviderError(_) => {
            Failure::Unavailable(format!("AWS's standard credential chain failed: {said}"))
        }
        _ => Failure::Refused(format!(
            "AWS's standard credential chain has no credentials ({said}): give the coordinator a \
             role, an environment or a profile, or set credentials_file"
        )),
    }
}
