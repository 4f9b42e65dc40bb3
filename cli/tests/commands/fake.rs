//! A coordinator's admin service that answers from a script and writes down what it
//! was asked.

use std::{
    collections::VecDeque,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use chancery_proto::v1::{
    admin_service_server::{AdminService, AdminServiceServer},
    *,
};
use tokio::{net::UnixListener, sync::mpsc};
use tokio_stream::{
    Stream,
    wrappers::{ReceiverStream, UnixListenerStream},
};
use tonic::{Request, Response, Status};

/// What one opening of the follow stream brings.
pub(crate) enum Follow {
    /// These states, then this status.
    Broken(Vec<CertificateDetail>, Status),
    /// These states, then silence.
    Open(Vec<CertificateDetail>),
}

/// What the coordinator answers. Without a script, a call is `UNIMPLEMENTED`.
#[derive(Default)]
pub(crate) struct Script {
    pub(crate) status: Option<StatusResponse>,
    /// The plan, then what carrying it out brings.
    pub(crate) plan: Option<ApplyResponse>,
    pub(crate) apply: Option<Status>,
    pub(crate) certificate: Option<CertificateDetail>,
    pub(crate) renewal: Option<RenewCertificateResponse>,
    pub(crate) refuse_renewal: Option<Status>,
    pub(crate) revocation: Option<Revocation>,
    pub(crate) switch: Option<SwitchCertificateResponse>,
    pub(crate) issuer: Option<IssuerDetail>,
    pub(crate) check: Option<IssuerCheck>,
    pub(crate) dns_records: Option<ShowDnsRecordsResponse>,
    pub(crate) follow: VecDeque<Follow>,
    pub(crate) agent: Option<AgentDetail>,
    pub(crate) token: Option<CreateTokenResponse>,
    pub(crate) events: Vec<Event>,
    /// What `ShowLease` answers, one after the other; the last one again and again.
    pub(crate) leases: VecDeque<Lease>,
    pub(crate) budgets: Option<ListBudgetsResponse>,
    pub(crate) drill: Option<DrillRevocationResponse>,
    pub(crate) listed: Vec<CertificateSummary>,
    pub(crate) transfer: Option<Result<TransferLeaseResponse, Status>>,
    /// `status` never answers.
    pub(crate) hang: bool,
}

/// The running fake. Its socket goes with it.
pub(crate) struct Fake {
    pub(crate) socket: PathBuf,
    pub(crate) calls: Arc<Mutex<Vec<String>>>,
    _folder: tempfile::TempDir,
}

impl Fake {
    /// Serves `script` on a new socket.
    pub(crate) fn start(script: Script) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("admin.sock");
        let calls = Arc::new(Mutex::new(Vec::new()));
        let service = Service { script: Mutex::new(script), calls: Arc::clone(&calls) };
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(AdminServiceServer::new(service))
                .serve_with_incoming(UnixListenerStream::new(listener)),
        );
        Self { socket, calls, _folder: folder }
    }

    /// The calls so far.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }
}

struct Service {
    script: Mutex<Script>,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Service {
    fn note(&self, call: impl Into<String>) {
        self.calls.lock().unwrap().push(call.into());
    }
}

fn scripted<T>(answer: Option<T>) -> Result<Response<T>, Status> {
    answer.map(Response::new).ok_or_else(|| Status::unimplemented("not in the script"))
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl AdminService for Service {
    async fn status(&self, _: Request<StatusRequest>) -> Answer<StatusResponse> {
        let (hang, status) = {
            let script = self.script.lock().unwrap();
            (script.hang, script.status.clone())
        };
        if hang {
            std::future::pending::<()>().await;
        }
        scripted(status)
    }

    async fn show_lease(&self, _: Request<ShowLeaseRequest>) -> Answer<Lease> {
        let mut script = self.script.lock().unwrap();
        if script.leases.len() > 1 {
            return scripted(script.leases.pop_front());
        }
        let last = script.leases.front().cloned();
        scripted(last.or_else(|| script.status.clone().and_then(|status| status.lease)))
    }

    async fn transfer_lease(
        &self,
        request: Request<TransferLeaseRequest>,
    ) -> Answer<TransferLeaseResponse> {
        let request = request.into_inner();
        self.note(format!("transfer to={:?} epoch={}", request.to, request.expected_epoch));
        self.script.lock().unwrap().transfer.clone().map_or_else(
            || Err(Status::unimplemented("not in the script")),
            |answer| answer.map(Response::new),
        )
    }

    async fn apply(&self, request: Request<ApplyRequest>) -> Answer<ApplyResponse> {
        let request = request.into_inner();
        self.note(format!(
            "apply dry_run={} prune={} expected={:?}",
            request.dry_run, request.prune, request.expected_plan
        ));
        let script = self.script.lock().unwrap();
        match &script.apply {
            Some(status) if !request.dry_run => Err(status.clone()),
            _ => scripted(
                script.plan.clone().map(|plan| ApplyResponse { applied: !request.dry_run, ..plan }),
            ),
        }
    }

    async fn list_certificates(
        &self,
        _: Request<ListCertificatesRequest>,
    ) -> Answer<ListCertificatesResponse> {
        let certificates = self.script.lock().unwrap().listed.clone();
        Ok(Response::new(ListCertificatesResponse { certificates }))
    }

    async fn show_certificate(
        &self,
        request: Request<ShowCertificateRequest>,
    ) -> Answer<CertificateDetail> {
        let name = request.into_inner().name;
        let certificate = self.script.lock().unwrap().certificate.clone();
        certificate
            .map(Response::new)
            .ok_or_else(|| Status::not_found(format!("certificate {name:?} does not exist")))
    }

    async fn renew_certificate(
        &self,
        request: Request<RenewCertificateRequest>,
    ) -> Answer<RenewCertificateResponse> {
        self.note(format!("renew {}", request.into_inner().name));
        let script = self.script.lock().unwrap();
        match &script.refuse_renewal {
            Some(status) => Err(status.clone()),
            None => scripted(script.renewal),
        }
    }

    async fn switch_certificate(
        &self,
        request: Request<SwitchCertificateRequest>,
    ) -> Answer<SwitchCertificateResponse> {
        self.note(format!("switch {}", request.into_inner().name));
        scripted(self.script.lock().unwrap().switch)
    }

    async fn revoke_certificate(
        &self,
        request: Request<RevokeCertificateRequest>,
    ) -> Answer<Revocation> {
        let request = request.into_inner();
        self.note(format!("revoke {} {} {}", request.name, request.generation, request.reason));
        scripted(self.script.lock().unwrap().revocation.clone())
    }

    async fn list_issuers(&self, _: Request<ListIssuersRequest>) -> Answer<ListIssuersResponse> {
        let issuers = self.script.lock().unwrap().issuer.iter().cloned().collect();
        Ok(Response::new(ListIssuersResponse { issuers }))
    }

    async fn show_issuer(&self, _: Request<ShowIssuerRequest>) -> Answer<IssuerDetail> {
        scripted(self.script.lock().unwrap().issuer.clone())
    }

    async fn check_issuer(&self, _: Request<CheckIssuerRequest>) -> Answer<IssuerCheck> {
        scripted(self.script.lock().unwrap().check.clone())
    }

    async fn change_account(&self, request: Request<ChangeAccountRequest>) -> Answer<IssuerDetail> {
        let request = request.into_inner();
        self.note(format!("{} {}", request.change, request.issuer));
        scripted(self.script.lock().unwrap().issuer.clone())
    }

    type FollowCertificateStream =
        Pin<Box<dyn Stream<Item = Result<CertificateDetail, Status>> + Send>>;

    async fn follow_certificate(
        &self,
        request: Request<FollowCertificateRequest>,
    ) -> Answer<Self::FollowCertificateStream> {
        self.note(format!("follow {}", request.into_inner().name));
        let next = self.script.lock().unwrap().follow.pop_front();
        let (states, reason) = match next {
            Some(Follow::Broken(states, reason)) => (states, Some(reason)),
            Some(Follow::Open(states)) => (states, None),
            None => return Err(Status::unavailable("not now")),
        };
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            for state in states {
                if sender.send(Ok(state)).await.is_err() {
                    return;
                }
            }
            match reason {
                Some(reason) => drop(sender.send(Err(reason)).await),
                None => sender.closed().await,
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn show_dns_records(
        &self,
        request: Request<ShowDnsRecordsRequest>,
    ) -> Answer<ShowDnsRecordsResponse> {
        let request = request.into_inner();
        self.note(format!(
            "records {} {:?} {:?} wildcard={} until={:?} check={}",
            request.issuer,
            request.certificates,
            request.identifiers,
            request.wildcard,
            request.persist_until.map(|until| until.seconds),
            request.check,
        ));
        scripted(self.script.lock().unwrap().dns_records.clone())
    }

    async fn list_agents(&self, _: Request<ListAgentsRequest>) -> Answer<ListAgentsResponse> {
        Ok(Response::new(ListAgentsResponse::default()))
    }

    async fn show_agent(&self, _: Request<ShowAgentRequest>) -> Answer<AgentDetail> {
        scripted(self.script.lock().unwrap().agent.clone())
    }

    async fn remove_agent(
        &self,
        request: Request<RemoveAgentRequest>,
    ) -> Answer<RemoveAgentResponse> {
        self.note(format!("remove {}", request.into_inner().name));
        Ok(Response::new(RemoveAgentResponse {}))
    }

    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Answer<CreateTokenResponse> {
        let request = request.into_inner();
        let ttl = request.ttl.map_or(Duration::ZERO, |ttl| ttl.try_into().unwrap());
        self.note(format!("token {} {:?} {ttl:?}", request.agent, request.labels));
        scripted(self.script.lock().unwrap().token.clone())
    }

    async fn list_events(&self, request: Request<ListEventsRequest>) -> Answer<ListEventsResponse> {
        let request = request.into_inner();
        self.note(format!("events limit={} before={}", request.limit, request.before));
        let script = self.script.lock().unwrap();
        // Two a page, whatever was asked for, as a coordinator may.
        let older = |event: &&Event| request.before == 0 || event.sequence < request.before;
        let events = script.events.iter().filter(older).take(2).cloned().collect();
        Ok(Response::new(ListEventsResponse { events }))
    }

    async fn list_budgets(
        &self,
        request: Request<ListBudgetsRequest>,
    ) -> Answer<ListBudgetsResponse> {
        self.note(format!("budgets {:?}", request.into_inner().issuer));
        scripted(self.script.lock().unwrap().budgets.clone())
    }

    async fn drill_revocation(
        &self,
        request: Request<DrillRevocationRequest>,
    ) -> Answer<DrillRevocationResponse> {
        let DrillRevocationRequest { certificates, dry_run, ask_cas } = request.into_inner();
        self.note(format!("drill {certificates:?} dry_run={dry_run} ask_cas={ask_cas}"));
        scripted(self.script.lock().unwrap().drill.clone())
    }

    async fn rotate_seal(&self, _: Request<RotateSealRequest>) -> Answer<RotateSealResponse> {
        Ok(Response::new(RotateSealResponse { active_key: 2 }))
    }

    async fn show_seal(&self, _: Request<ShowSealRequest>) -> Answer<SealDetail> {
        scripted(None)
    }
}
