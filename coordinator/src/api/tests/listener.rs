//! The listeners themselves.

use std::time::Duration;

use chancery_shared::{key_type::KeyType, tls};
use tokio::{io::AsyncReadExt as _, net::TcpStream};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::{api::testing::Fleet, authority::ServerIdentity};

#[tokio::test]
async fn handshakes_that_hang_hold_up_nobody() {
    let fleet = Fleet::start().await;
    let mut hanging = Vec::new();
    for _ in 0..50 {
        hanging.push(TcpStream::connect(&fleet.address).await.unwrap());
    }
    let token = fleet.token("web-1", &["role=web"]).await;
    let key = KeyType::EcdsaP256.generate().unwrap();
    let joined = tokio::time::timeout(Duration::from_secs(5), fleet.try_join(&token, &key)).await;
    joined.expect("it is not held up").unwrap();
}

#[tokio::test]
async fn rubbish_is_hung_up_on() {
    use tokio::io::AsyncWriteExt as _;
    let fleet = Fleet::start().await;
    let mut stream = TcpStream::connect(&fleet.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // A reset is an end as well.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"));
    assert!(fleet.mirror.read().events.values().all(|event| event.kind.code() != "agent.refused"));
}

#[tokio::test]
async fn the_server_certificate_is_for_one_name_and_comes_with_the_root() {
    let fleet = Fleet::start().await;
    let key = ServerIdentity::new(fleet.authority.clone()).unwrap().current();
    assert_eq!(key.cert[1], *fleet.authority.certificate());
    let (_, leaf) = x509_parser::parse_x509_certificate(&key.cert[0]).unwrap();
    let facts = chancery_shared::x509::Facts::of(&key.cert[0]).unwrap();
    assert_eq!(facts.dns_names, [tls::COORDINATOR_NAME]);
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && !usage.client_auth && !usage.any);
    // Who pins another root does not get through.
    let other = chancery_shared::x509::Fingerprint::from_bytes([1; 32]);
    let config = tls::joining_client(other).unwrap();
    tls::connect(&fleet.address, config.into()).await.unwrap_err();
}

#[tokio::test]
async fn health_and_reflection_answer_on_both_listeners() {
    let fleet = Fleet::start().await;
    fleet.admin().await;
    let path = fleet.directory.path().join("admin.sock");
    let endpoint = format!("unix://{}", path.display());
    let socket = tonic::transport::Endpoint::try_from(endpoint).unwrap().connect().await.unwrap();
    for (channel, service) in
        [(fleet.stranger().await, "chancery.v1.AgentService"), (socket, "chancery.v1.AdminService")]
    {
        let mut health = HealthClient::new(channel.clone());
        let answer = health.check(HealthCheckRequest::default()).await.unwrap().into_inner();
        assert_eq!(answer.status().as_str_name(), "SERVING");
        let question = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let questions = tokio_stream::iter([question]);
        let mut reflection = ServerReflectionClient::new(channel);
        let mut answers = reflection.server_reflection_info(questions).await.unwrap().into_inner();
        let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
        let MessageResponse::ListServicesResponse(services) = answer else { panic!("{answer:?}") };
        assert!(services.service.iter().any(|found| found.name == service), "{services:?}");
    }
}
