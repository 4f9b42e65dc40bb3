//! `chancery cert`.

use chancery_proto::v1::{
    ListCertificatesRequest, RevokeCertificateRequest, ShowCertificateRequest,
};

use super::{Context, renew};
use crate::{
    args::CertCommand,
    connect::answer,
    failure::{Exit, Failure},
    render::{self, json},
};

pub(super) async fn cert(context: &Context<'_>, command: &CertCommand) -> Result<(), Failure> {
    match command {
        CertCommand::List => list(context).await,
        CertCommand::Show { name, pem } => show(context, name.as_str(), *pem).await,
        CertCommand::Renew { name, wait: false } => renew::renew(context, name.as_str()).await,
        CertCommand::Renew { name, wait: true } => renew::and_wait(context, name.as_str()).await,
        CertCommand::Switch { name, wait } => renew::switch(context, name.as_str(), *wait).await,
        CertCommand::Revoke { name, generation, reason, yes } => {
            let which = match generation {
                Some(generation) => format!("generation {generation}"),
                None => "the newest generation".to_owned(),
            };
            context.confirm(*yes, &format!("Revoke {which} of certificate {name}?"))?;
            let request = RevokeCertificateRequest {
                name: name.to_string(),
                generation: generation.unwrap_or_default(),
                reason: reason.to_string(),
            };
            revoke(context, request).await
        }
    }
}

async fn revoke(context: &Context<'_>, request: RevokeCertificateRequest) -> Result<(), Failure> {
    let name = request.name.clone();
    let mut client = context.client().await?;
    let revocation = answer(context.answer_limit(), client.revoke_certificate(request)).await?;
    context.output.answer(&json::RevocationOf::new(&name, &revocation), || {
        render::cert::revoked(&name, &revocation)
    })?;
    match revocation.state.as_str() {
        "revoked" => Ok(()),
        "refused" => Err(Failure::failed("the CA does not revoke it")),
        _ => Err(Failure::new(Exit::TimedOut, "the CA has not answered yet; the leader goes on")),
    }
}

async fn list(context: &Context<'_>) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let list = answer(context.answer_limit(), client.list_certificates(ListCertificatesRequest {}))
        .await?;
    context.output.answer(&json::Certificates::from(&list), || {
        render::cert::list(&list.certificates, &context.view())
    })
}

async fn show(context: &Context<'_>, name: &str, pem: bool) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let request = ShowCertificateRequest { name: name.to_owned() };
    let detail = answer(context.answer_limit(), client.show_certificate(request)).await?;
    if pem && detail.chain_pem.is_empty() {
        return Err(Failure::failed(format!("certificate {name} has not been issued yet")));
    }
    if pem {
        return context.output.print(&detail.chain_pem);
    }
    context.output.answer(&json::CertificateDetail::from(&detail), || {
        render::cert::detail(&detail, &context.view())
    })
}
