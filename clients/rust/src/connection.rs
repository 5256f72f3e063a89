//! The way to the gateway: one channel, and what goes with every call.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};
use tonic::{Code, Request, Response, Status};

use crate::client::ChangeFeedClient;
use crate::errors::{ChangeFeedError, Error};
use crate::messages::change_feed_service_client::ChangeFeedServiceClient;

/// Tries of a unary call. A stream is not retried there: resuming needs its last token.
const MOST_ATTEMPTS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A client of the gateway at `host:port`, in plaintext; [`ConnectOptions`] encrypts. It connects with its first call.
/// Another text than `host:port` is [`Error::Argument`].
///
/// # Panics
/// Outside of a Tokio runtime, which carries the connection.
pub fn connect(target: &str) -> Result<ChangeFeedClient, Error> {
    ConnectOptions::new().connect(target)
}

/// PEM texts; without roots those of the system are trusted.
#[derive(Clone, Default)]
pub struct Tls {
    roots: Option<Vec<u8>>,
    identity: Option<Identity>,
}

impl Tls {
    /// Trusts the system's roots.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts these certificates in place of the system's.
    pub fn roots(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots = Some(pem.into());
        self
    }

    /// Identifies the client (mTLS) by a certificate and its key.
    pub fn identity(mut self, certificate: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Self {
        self.identity = Some(Identity::from_pem(certificate, key));
        self
    }

    fn config(self) -> ClientTlsConfig {
        let config = match self.roots {
            Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        match self.identity {
            Some(identity) => config.identity(identity),
            None => config,
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

type Bearer = Arc<dyn Fn() -> String + Send + Sync>;

/// How to reach a gateway.
#[derive(Clone, Default)]
pub struct ConnectOptions {
    tls: Option<Tls>,
    bearer: Option<Bearer>,
}

impl ConnectOptions {
    /// In plaintext, without a token.
    pub fn new() -> Self {
        Self::default()
    }

    /// Encrypts.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Sends a token with every call and every stream that is opened. It is asked each time, so that it may be renewed,
    /// and must answer from memory. It needs TLS.
    pub fn bearer(mut self, token: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.bearer = Some(Arc::new(token));
        self
    }

    /// A client of the gateway at `host:port`. It connects with its first call. Another text, certificates that are none
    /// and a bearer token without TLS are [`Error::Argument`].
    ///
    /// # Panics
    /// Outside of a Tokio runtime, which carries the connection.
    pub fn connect(self, target: &str) -> Result<ChangeFeedClient, Error> {
        if self.bearer.is_some() && self.tls.is_none() {
            return Err(Error::Argument("a bearer token is sent over TLS only: add `tls`".to_owned()));
        }
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{target}"))
            .ok()
            .filter(|endpoint| names_port(endpoint.uri(), target))
            .ok_or_else(|| Error::Argument(format!("not host:port: {target:?}")))?
            .connect_timeout(Duration::from_secs(5))
            // Data of an idle stream are its heartbeats; a ping finds a dead peer while calls are open.
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(10));
        let endpoint = match self.tls {
            Some(tls) => endpoint
                .tls_config(tls.config())
                .map_err(|error| Error::Argument(format!("the certificates cannot be used: {error}")))?,
            None => endpoint,
        };
        Ok(ChangeFeedClient::new(Connection::new(endpoint, self.bearer)))
    }
}

/// Whether it is nothing but host and port, as a bare host would be asked at the port of the web.
fn names_port(uri: &Uri, target: &str) -> bool {
    uri.port_u16().is_some() && uri.authority().is_some_and(|authority| authority.as_str() == target)
}

impl fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectOptions").field("tls", &self.tls).finish_non_exhaustive()
    }
}

/// What makes a request carry the caller's token, and where it goes. Clones share one connection.
#[derive(Clone)]
pub(crate) struct Connection {
    endpoint: Endpoint,
    bearer: Option<Bearer>,
    channel: Channel,
}

impl Connection {
    fn new(endpoint: Endpoint, bearer: Option<Bearer>) -> Self {
        let channel = endpoint.connect_lazy();
        Self { endpoint, bearer, channel }
    }

    /// The same over another connection.
    pub(crate) fn redial(&self) -> Self {
        Self::new(self.endpoint.clone(), self.bearer.clone())
    }

    pub(crate) fn service(&self) -> ChangeFeedServiceClient<Channel> {
        ChangeFeedServiceClient::new(self.channel.clone())
    }

    pub(crate) fn request<Q>(&self, question: Q) -> Result<Request<Q>, Error> {
        let mut request = Request::new(question);
        if let Some(bearer) = &self.bearer {
            let mut value = MetadataValue::try_from(format!("Bearer {}", bearer()))
                .map_err(|_| Error::Argument("the bearer token has characters that no header has".to_owned()))?;
            value.set_sensitive(true);
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }

    /// A unary call, tried again where the gateway was unavailable, all within its deadline. Who is to wait for longer
    /// hears at once what the gateway said.
    pub(crate) async fn call<Q: Clone, A, F>(
        &self,
        deadline: Duration,
        question: Q,
        ask: impl Fn(ChangeFeedServiceClient<Channel>, Request<Q>) -> F,
    ) -> Result<A, Error>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let until = Instant::now() + deadline;
        let trying = async {
            let mut ceiling = FIRST_PAUSE;
            let mut attempts = 1;
            loop {
                let mut request = self.request(question.clone())?;
                request.set_timeout(deadline);
                let failed = match ask(self.service(), request).await {
                    Ok(answer) => return Ok(answer.into_inner()),
                    Err(status) => ChangeFeedError::from(status),
                };
                if !failed.retryable || failed.code != Code::Unavailable || attempts == MOST_ATTEMPTS {
                    return Err(failed.into());
                }
                let pause = ceiling.mul_f64(fastrand::f64()).max(failed.retry_after);
                if pause >= until - Instant::now() {
                    return Err(failed.into());
                }
                sleep(pause).await;
                ceiling = (ceiling * 2).min(LONGEST_PAUSE);
                attempts += 1;
            }
        };
        timeout(deadline, trying).await.unwrap_or_else(|_| {
            let said = format!("no answer within {deadline:?}");
            Err(ChangeFeedError::without_details(Code::DeadlineExceeded, said).into())
        })
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::rpc::{self, RetryInfo};

    #[tokio::test]
    async fn a_bearer_token_needs_tls() {
        let options = ConnectOptions::new().bearer(|| "secret".to_owned());
        assert!(matches!(options.clone().connect("127.0.0.1:1"), Err(Error::Argument(_))));
        assert!(options.tls(Tls::new()).connect("127.0.0.1:1").is_ok());
    }

    #[tokio::test]
    async fn a_token_that_no_header_holds_is_an_error_that_does_not_show_it() {
        let options = ConnectOptions::new().tls(Tls::new()).bearer(|| "secret\n".to_owned());
        let client = options.connect("127.0.0.1:1").expect("a client");
        let refused = client.capabilities(Default::default()).await.expect_err("no header");
        assert!(!refused.to_string().contains("secret"), "{refused}");
    }

    #[tokio::test]
    async fn who_is_to_wait_beyond_the_deadline_hears_at_once_what_was_said() {
        let connection = Connection::new(Endpoint::from_static("http://127.0.0.1:1"), None);
        let asked = RetryInfo { retry_delay: Some(prost_types::Duration { seconds: 3_600, nanos: 0 }) };
        let detail = prost_types::Any {
            type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
            value: asked.encode_to_vec(),
        };
        let said = rpc::Status { code: Code::Unavailable as i32, message: "closed".to_owned(), details: vec![detail] };
        let refused = Status::with_details(Code::Unavailable, "closed", said.encode_to_vec().into());
        let began = Instant::now();
        let deadline = Duration::from_secs(600);
        let failed = connection.call(deadline, (), |_, _| async { Err::<Response<()>, _>(refused.clone()) }).await;
        assert!(matches!(failed, Err(Error::Call(failed)) if failed.code == Code::Unavailable));
        assert!(began.elapsed() < deadline / 10);
    }

    #[tokio::test]
    async fn a_target_is_host_and_port() {
        for target in ["", "a b", "localhost", "127.0.0.1:99999999", "localhost:1/path"] {
            assert!(matches!(connect(target), Err(Error::Argument(_))), "{target:?} was taken");
        }
    }
}
