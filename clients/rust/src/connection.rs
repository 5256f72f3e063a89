//! The way to the gateway: one channel, and what goes with every call.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};
use tonic::{Code, Request, Response, Status};

use crate::client::ChangeFeedClient;
use crate::errors::{BoxError, ChangeFeedError, Error};
use crate::messages::change_feed_service_client::ChangeFeedServiceClient;

/// Tries of a unary call. A stream is not retried there: resuming needs its last token.
const MOST_ATTEMPTS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Of TCP, and of TLS after it: a peer that accepts and says nothing would keep calls, and its socket, for ever.
const LONGEST_HANDSHAKE: Duration = Duration::from_secs(5);

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
        let config = config.timeout(LONGEST_HANDSHAKE);
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

type Bearer = Arc<dyn Fn() -> Result<String, BoxError> + Send + Sync>;

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
    /// and must answer from memory. It needs TLS. What can be no token, as it is empty or holds anything but visible
    /// ASCII, is an outage: UNAVAILABLE, which a tail waits out within its patience; no error shows the text.
    pub fn bearer(self, token: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.try_bearer(move || Ok::<_, BoxError>(token()))
    }

    /// As [`ConnectOptions::bearer`], from a source that may fail: that too is an outage. The text of the source's error
    /// is shown, and should hold no secret.
    ///
    /// ```
    /// # use changefeed_client::{ConnectOptions, Tls};
    /// let options = ConnectOptions::new().tls(Tls::new()).try_bearer(|| {
    ///     std::fs::read_to_string("/run/secrets/token").map(|text| text.trim().to_owned())
    /// });
    /// ```
    pub fn try_bearer<E: Into<BoxError>>(
        mut self,
        token: impl Fn() -> Result<String, E> + Send + Sync + 'static,
    ) -> Self {
        self.bearer = Some(Arc::new(move || token().map_err(Into::into)));
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
            .connect_timeout(LONGEST_HANDSHAKE)
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

fn was_unavailable(failed: &Error) -> bool {
    matches!(failed, Error::Call(failed) if failed.retryable && failed.code == Code::Unavailable)
}

/// The source's token. What is none is not shown: somebody may have put the wrong secret there.
fn token(bearer: &Bearer) -> Result<String, Error> {
    let unavailable = |said| Error::from(ChangeFeedError::without_details(Code::Unavailable, said));
    let token = bearer().map_err(|error| unavailable(format!("no bearer token can be had: {error}")))?;
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let said = "the bearer token is none: it is empty, or holds more than visible ASCII";
        return Err(unavailable(said.to_owned()));
    }
    Ok(token)
}

/// What makes a request carry the caller's token, and where it goes. Clones share one connection.
#[derive(Clone)]
pub(crate) struct Connection {
    endpoint: Endpoint,
    bearer: Option<Bearer>,
    channel: Channel,
    most_attempts: u32,
}

impl Connection {
    fn new(endpoint: Endpoint, bearer: Option<Bearer>) -> Self {
        let channel = endpoint.connect_lazy();
        Self { endpoint, bearer, channel, most_attempts: MOST_ATTEMPTS }
    }

    /// The same, whose unary calls are tried once.
    pub(crate) fn trying_once(self) -> Self {
        Self { most_attempts: 1, ..self }
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
            let mut value =
                MetadataValue::try_from(format!("Bearer {}", token(bearer)?)).expect("visible ASCII is a header's");
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
                let failed = match self.attempt(deadline, question.clone(), &ask).await {
                    Ok(answer) => return Ok(answer),
                    Err(failed) => failed,
                };
                if !was_unavailable(&failed) || attempts >= self.most_attempts {
                    return Err(failed);
                }
                let pause = ceiling.mul_f64(fastrand::f64()).max(failed.retry_after());
                if pause >= until - Instant::now() {
                    return Err(failed);
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

    async fn attempt<Q, A, F>(
        &self,
        deadline: Duration,
        question: Q,
        ask: impl Fn(ChangeFeedServiceClient<Channel>, Request<Q>) -> F,
    ) -> Result<A, Error>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let mut request = self.request(question)?;
        request.set_timeout(deadline);
        Ok(ask(self.service(), request).await?.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};

    use prost::Message;
    use tokio::io::{copy, sink};
    use tokio::net::TcpListener;
    use tokio::runtime::Handle;

    use super::*;
    use crate::errors::{Category, StreamInterrupted};
    use crate::positions::now;
    use crate::rpc::{self, RetryInfo};
    use crate::tail::TailOptions;

    /// The address of a peer that accepts, reads and says nothing. It has a task, and one more for each connection.
    async fn silent_peer() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        tokio::spawn(async move {
            while let Ok((mut peer, _)) = listener.accept().await {
                tokio::spawn(async move { copy(&mut peer, &mut sink()).await });
            }
        });
        address
    }

    fn tasks() -> usize {
        Handle::current().metrics().num_alive_tasks()
    }

    fn is_outage(failed: &Error) -> bool {
        was_unavailable(failed) && failed.category() == Some(&Category::TransientFailure)
    }

    #[tokio::test]
    async fn a_bearer_token_needs_tls() {
        let options = ConnectOptions::new().bearer(|| "secret".to_owned());
        assert!(matches!(options.clone().connect("127.0.0.1:1"), Err(Error::Argument(_))));
        assert!(options.tls(Tls::new()).connect("127.0.0.1:1").is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_token_is_an_outage_that_does_not_show_it() {
        for text in ["", "secret\n", "sec ret", "s\u{e9}cret", "secret\u{7f}"] {
            let options = ConnectOptions::new().tls(Tls::new()).bearer(|| text.to_owned());
            let client = options.connect("127.0.0.1:1").expect("a client");
            let failed = client.capabilities(Default::default()).await.expect_err("no token");
            assert!(is_outage(&failed), "{failed}");
            assert_eq!(
                failed.to_string(),
                "Unavailable: the bearer token is none: it is empty, or holds more than visible ASCII"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_of_tokens_that_fails_is_asked_again_within_patience() {
        let asked = Arc::new(AtomicU32::new(0));
        let source = {
            let asked = Arc::clone(&asked);
            move || match asked.fetch_add(1, Ordering::Relaxed) {
                0..5 => Err("the vault is closed"),
                _ => Ok(String::new()),
            }
        };
        let options = ConnectOptions::new().tls(Tls::new()).try_bearer(source);
        let client = options.connect("127.0.0.1:1").expect("a client");
        let told = Arc::new(Mutex::new(Vec::new()));
        let options = TailOptions::new().patience(Duration::from_secs(60)).on_reconnect({
            let told = Arc::clone(&told);
            move |error, _| told.lock().expect("sound").push((is_outage(error), error.to_string()))
        });
        let failed = client.tail(Default::default(), now(), options).try_next().await.expect_err("never a token");
        assert!(is_outage(&failed), "{failed}");
        let told = told.lock().expect("sound");
        assert!(told.iter().all(|(is_outage, _)| *is_outage), "{told:?}");
        let closed = "Unavailable: no bearer token can be had: the vault is closed";
        assert_eq!(told.iter().filter(|(_, said)| said == closed).count(), 5);
        assert!(told.len() > 5, "it goes on when the source does");
    }

    #[tokio::test(start_paused = true)]
    async fn a_handshake_ends_and_leaves_nothing_behind() {
        let peer = silent_peer().await;
        let before = tasks();
        for tls in [Tls::new(), Tls::new().roots("")] {
            let client = ConnectOptions::new().tls(tls).connect(&peer).expect("a client");
            let began = Instant::now();
            let failed = client.capabilities(Default::default()).await.expect_err("silence");
            assert!(is_outage(&failed), "{failed}");
            assert!(began.elapsed() < LONGEST_HANDSHAKE * (MOST_ATTEMPTS + 1), "took {:?}", began.elapsed());

            let options = TailOptions::new().patience(Duration::from_secs(60));
            let failed = client.tail(Default::default(), now(), options).try_next().await.expect_err("silence");
            assert!(is_outage(&failed), "{failed}");

            let mut tail = client.tail(Default::default(), now(), TailOptions::new());
            drop(client);
            assert!(timeout(LONGEST_HANDSHAKE / 5, tail.try_next()).await.is_err(), "it is in its handshake");
            assert!(tasks() > before);
            drop(tail);
            sleep(LONGEST_HANDSHAKE * 2).await;
            assert_eq!(tasks(), before);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn connections_that_are_left_end() {
        let peer = silent_peer().await;
        let before = tasks();
        let alive = Arc::new(Mutex::new(Vec::new()));
        let options = TailOptions::new().patience(Duration::from_secs(300)).on_reconnect({
            let alive = Arc::clone(&alive);
            move |_, _| alive.lock().expect("sound").push(tasks())
        });
        let client = connect(&peer).expect("a client");
        let failed = client.tail(Default::default(), now(), options).try_next().await.expect_err("silence");
        let is_silence = matches!(&failed, Error::Interrupted(StreamInterrupted { heartbeat_missed: true, .. }));
        assert!(is_silence, "{failed}");
        let alive = alive.lock().expect("sound").clone();
        assert!(alive.len() > 5 && alive[2..].iter().all(|count| *count <= alive[1]), "{alive:?}");
        drop(client);
        sleep(LONGEST_HANDSHAKE).await;
        assert_eq!(tasks(), before);
    }

    #[tokio::test]
    async fn who_cannot_connect_hears_why() {
        let client = connect("127.0.0.1:1").expect("a client");
        let failed = client.capabilities(Default::default()).await.expect_err("nobody listens");
        assert!(failed.to_string().contains("refused"), "{failed}");
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_are_tried_once_are_not_tried_again() {
        let connection = Connection::new(Endpoint::from_static("http://127.0.0.1:1"), None);
        for (connection, attempts) in [(connection.clone(), MOST_ATTEMPTS), (connection.trying_once(), 1)] {
            let tried = AtomicU32::new(0);
            let ask = |_, _: Request<()>| {
                tried.fetch_add(1, Ordering::Relaxed);
                async { Err::<Response<()>, _>(Status::unavailable("closed")) }
            };
            assert!(connection.call(Duration::from_secs(600), (), ask).await.is_err());
            assert_eq!(tried.into_inner(), attempts);
        }
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
