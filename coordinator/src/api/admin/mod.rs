//! The service for operators.

use std::{pin::Pin, sync::Arc};

use chancery_proto::v1::{
    AgentDetail, ApplyRequest, ApplyResponse, CertificateDetail, ChangeAccountRequest,
    CheckIssuerRequest, CreateTokenRequest, CreateTokenResponse, DrillRevocationRequest,
    DrillRevocationResponse, Event, FollowCertificateRequest, IssuerCheck, IssuerDetail, Lease,
    ListAgentsRequest, ListAgentsResponse, ListBudgetsRequest, ListBudgetsResponse,
    ListCertificatesRequest, ListCertificatesResponse, ListEventsRequest, ListEventsResponse,
    ListIssuersRequest, ListIssuersResponse, RemoveAgentRequest, RemoveAgentResponse,
    RenewCertificateRequest, RenewCertificateResponse, Revocation, RevokeCertificateRequest,
    RotateSealRequest, RotateSealResponse, SealDetail, ShowAgentRequest, ShowCertificateRequest,
    ShowDnsRecordsRequest, ShowDnsRecordsResponse, ShowIssuerRequest, ShowLeaseRequest,
    ShowSealRequest, StatusRequest, StatusResponse, SwitchCertificateRequest,
    SwitchCertificateResponse, TransferLeaseRequest, TransferLeaseResponse,
    admin_service_server::AdminService,
};
use chancery_shared::{name::IssuerName, wire::to_timestamp};
use futures_util::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, async_trait, transport::server::UdsConnectInfo};

use super::{Api, forward, socket};
use crate::record;

mod agents;
mod apply;
mod certificates;
mod dns_records;
mod drill;
mod issuers;
mod lease;
mod revoke;
mod seal;
mod switch;

pub(super) struct Admin {
    pub(super) api: Arc<Api>,
    pub(super) shutdown: CancellationToken,
}

type FollowStream = Pin<Box<dyn Stream<Item = Result<CertificateDetail, Status>> + Send>>;

#[async_trait]
impl AdminService for Admin {
    type FollowCertificateStream = FollowStream;

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(self.api.overview().await))
    }

    async fn show_lease(&self, _: Request<ShowLeaseRequest>) -> Result<Response<Lease>, Status> {
        Ok(Response::new(self.api.lease().await))
    }

    async fn transfer_lease(
        &self,
        request: Request<TransferLeaseRequest>,
    ) -> Result<Response<TransferLeaseResponse>, Status> {
        let who = operator(&request);
        self.api.transfer_lease(request.get_ref(), &who).await.map(Response::new)
    }

    async fn apply(
        &self,
        request: Request<ApplyRequest>,
    ) -> Result<Response<ApplyResponse>, Status> {
        let who = operator(&request);
        self.api.apply(request.into_inner(), &who).await.map(Response::new)
    }

    async fn list_certificates(
        &self,
        _: Request<ListCertificatesRequest>,
    ) -> Result<Response<ListCertificatesResponse>, Status> {
        let certificates = self.api.status.certificates();
        Ok(Response::new(ListCertificatesResponse { certificates }))
    }

    async fn show_certificate(
        &self,
        request: Request<ShowCertificateRequest>,
    ) -> Result<Response<CertificateDetail>, Status> {
        self.api.look_around().await;
        let name = name(&request.get_ref().name)?;
        let detail = self.api.status.certificate(&name);
        detail.map(Response::new).ok_or_else(|| not_found("certificate", &name))
    }

    async fn renew_certificate(
        &self,
        request: Request<RenewCertificateRequest>,
    ) -> Result<Response<RenewCertificateResponse>, Status> {
        let who = operator(&request);
        let name = name(&request.get_ref().name)?;
        self.api.renew_certificate(&name, &who).await.map(Response::new)
    }

    async fn revoke_certificate(
        &self,
        request: Request<RevokeCertificateRequest>,
    ) -> Result<Response<Revocation>, Status> {
        let who = operator(&request);
        self.api.revoke_certificate(request.get_ref(), &who).await.map(Response::new)
    }

    async fn switch_certificate(
        &self,
        request: Request<SwitchCertificateRequest>,
    ) -> Result<Response<SwitchCertificateResponse>, Status> {
        let who = operator(&request);
        let name = name(&request.get_ref().name)?;
        self.api.switch_certificate(&name, &who).await.map(Response::new)
    }

    async fn follow_certificate(
        &self,
        request: Request<FollowCertificateRequest>,
    ) -> Result<Response<FollowStream>, Status> {
        let name = name(&request.get_ref().name)?;
        let stream = certificates::follow(&self.api, name, self.shutdown.clone())?;
        Ok(Response::new(stream))
    }

    async fn list_issuers(
        &self,
        _: Request<ListIssuersRequest>,
    ) -> Result<Response<ListIssuersResponse>, Status> {
        Ok(Response::new(ListIssuersResponse { issuers: self.api.status.issuers() }))
    }

    async fn show_issuer(
        &self,
        request: Request<ShowIssuerRequest>,
    ) -> Result<Response<IssuerDetail>, Status> {
        let name = name(&request.get_ref().name)?;
        let detail = self.api.status.issuer(&name);
        detail.map(Response::new).ok_or_else(|| not_found("issuer", &name))
    }

    async fn check_issuer(
        &self,
        request: Request<CheckIssuerRequest>,
    ) -> Result<Response<IssuerCheck>, Status> {
        let name = name(&request.get_ref().name)?;
        self.api.check_issuer(&name).await.map(Response::new)
    }

    async fn change_account(
        &self,
        request: Request<ChangeAccountRequest>,
    ) -> Result<Response<IssuerDetail>, Status> {
        let who = operator(&request);
        self.api
            .undisturbed(|| self.api.change_account(request.get_ref(), &who))
            .await
            .map(Response::new)
    }

    async fn show_dns_records(
        &self,
        request: Request<ShowDnsRecordsRequest>,
    ) -> Result<Response<ShowDnsRecordsResponse>, Status> {
        self.api.dns_records(request.get_ref()).await.map(Response::new)
    }

    async fn list_agents(
        &self,
        _: Request<ListAgentsRequest>,
    ) -> Result<Response<ListAgentsResponse>, Status> {
        self.api.look_around().await;
        Ok(Response::new(ListAgentsResponse { agents: self.api.status.agents() }))
    }

    async fn show_agent(
        &self,
        request: Request<ShowAgentRequest>,
    ) -> Result<Response<AgentDetail>, Status> {
        self.api.look_around().await;
        let name = name(&request.get_ref().name)?;
        let detail = self.api.status.agent(&name);
        detail.map(Response::new).ok_or_else(|| not_found("agent", &name))
    }

    async fn remove_agent(
        &self,
        request: Request<RemoveAgentRequest>,
    ) -> Result<Response<RemoveAgentResponse>, Status> {
        let who = operator(&request);
        let name = name(&request.get_ref().name)?;
        self.api.undisturbed(|| self.api.remove_agent(&name, &who)).await?;
        Ok(Response::new(RemoveAgentResponse {}))
    }

    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        let who = operator(&request);
        self.api.create_token(request.into_inner(), &who).await.map(Response::new)
    }

    async fn list_budgets(
        &self,
        request: Request<ListBudgetsRequest>,
    ) -> Result<Response<ListBudgetsResponse>, Status> {
        let only = &request.get_ref().issuer;
        let only = if only.is_empty() { None } else { Some(name::<IssuerName>(only)?) };
        let budgets = self.api.status.budgets(only.as_ref());
        let budgets = budgets.ok_or_else(|| not_found("issuer", &request.get_ref().issuer))?;
        Ok(Response::new(ListBudgetsResponse { budgets }))
    }

    async fn drill_revocation(
        &self,
        request: Request<DrillRevocationRequest>,
    ) -> Result<Response<DrillRevocationResponse>, Status> {
        let who = operator(&request);
        self.api.drill_revocation(request.get_ref(), &who).await.map(Response::new)
    }

    async fn list_events(
        &self,
        request: Request<ListEventsRequest>,
    ) -> Result<Response<ListEventsResponse>, Status> {
        let request = request.into_inner();
        Ok(Response::new(ListEventsResponse { events: self.api.list_events(&request) }))
    }

    async fn rotate_seal(
        &self,
        request: Request<RotateSealRequest>,
    ) -> Result<Response<RotateSealResponse>, Status> {
        let who = operator(&request);
        self.api.rotate_seal(&who).await.map(Response::new)
    }

    async fn show_seal(&self, _: Request<ShowSealRequest>) -> Result<Response<SealDetail>, Status> {
        self.api.show_seal().map(Response::new)
    }
}

impl Api {
    /// Events, newest first.
    fn list_events(&self, request: &ListEventsRequest) -> Vec<Event> {
        let limit = match request.limit {
            0 => DEFAULT_EVENTS,
            limit => usize::try_from(limit).unwrap_or(usize::MAX),
        };
        let before = if request.before == 0 { u64::MAX } else { request.before };
        let view = self.mirror.read();
        let events = view.events.range(..before).rev().map(|(_, event)| &**event);
        events
            .filter(|event| request.subject.is_empty() || event.subject == request.subject)
            .take(limit)
            .map(wire_event)
            .collect()
    }
}

fn wire_event(event: &record::Event) -> Event {
    Event {
        sequence: event.sequence,
        at: Some(to_timestamp(event.at)),
        kind: event.kind.code().to_owned(),
        subject: event.subject.clone(),
        message: event.message.clone(),
        node: event.node.to_string(),
        epoch: event.epoch.0,
    }
}

/// The operator, for events: the user at the other end of the socket, as the kernel says, here or at
/// the coordinator that has passed the call on.
fn operator<T>(request: &Request<T>) -> String {
    let elsewhere = forward::operator(request);
    elsewhere.unwrap_or_else(|| socket::user(request.extensions().get::<UdsConnectInfo>()))
}

fn name<N>(text: &str) -> Result<N, Status>
where
    N: std::str::FromStr<Err: std::fmt::Display>,
{
    text.parse().map_err(|error: N::Err| Status::invalid_argument(error.to_string()))
}

fn not_found(kind: &str, name: &impl std::fmt::Display) -> Status {
    Status::not_found(format!("there is no {kind} named {name}"))
}

const DEFAULT_EVENTS: usize = 50;
