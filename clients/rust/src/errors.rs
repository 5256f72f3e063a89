//! What went wrong, to be matched without parsing text.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use prost::Message as _;
use tonic::Code;

use crate::rpc::{BadRequest, ErrorInfo, RetryInfo, Status};
use crate::spans::span;

/// Any error, of a checkpoint or a handler.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// What ends a call or a tail.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A call failed: the gateway says why, or the way to it broke.
    Call(Box<ChangeFeedError>),
    /// A stream broke without an error of the gateway, and patience ended.
    Interrupted(StreamInterrupted),
    /// What the checkpoint returned.
    Checkpoint(BoxError),
    /// What the handler of [`crate::ChangeFeedClient::read_partitions`] returned.
    Handler(BoxError),
    /// An argument that no call can be made with.
    Argument(String),
}

impl Error {
    /// The category of a call that failed; none of everything else.
    ///
    /// ```
    /// # use changefeed_client::{Category, Error};
    /// fn is_lost(error: &Error) -> bool {
    ///     error.category() == Some(&Category::CheckpointExpired)
    /// }
    /// ```
    pub fn category(&self) -> Option<&Category> {
        match self {
            Error::Call(failed) => Some(&failed.category),
            _ => None,
        }
    }

    /// Whether the same call may succeed later; [`Category::CheckpointExpired`], for one, is final.
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::Call(failed) => failed.retryable,
            Error::Interrupted(_) => true,
            _ => false,
        }
    }

    /// How long the gateway asks to wait first.
    pub fn retry_after(&self) -> Duration {
        match self {
            Error::Call(failed) => failed.retry_after,
            Error::Interrupted(interrupted) => interrupted.retry_after,
            _ => Duration::ZERO,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Call(failed) => failed.fmt(f),
            Error::Interrupted(interrupted) => interrupted.fmt(f),
            Error::Checkpoint(error) => write!(f, "the checkpoint failed: {error}"),
            Error::Handler(error) => write!(f, "the handler failed: {error}"),
            Error::Argument(said) => said.fmt(f),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Error::Checkpoint(error) | Error::Handler(error) => Some(error.as_ref()),
            _ => None,
        }
    }
}

impl From<ChangeFeedError> for Error {
    fn from(failed: ChangeFeedError) -> Self {
        Error::Call(Box::new(failed))
    }
}

impl From<StreamInterrupted> for Error {
    fn from(interrupted: StreamInterrupted) -> Self {
        Error::Interrupted(interrupted)
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        ChangeFeedError::from(status).into()
    }
}

/// The portable kind of a failure, for branching.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Category {
    /// INVALID_REQUEST
    InvalidRequest,
    /// CHECKPOINT_EXPIRED: changes are lost to this reader.
    CheckpointExpired,
    /// UNSUPPORTED_CAPABILITY
    UnsupportedCapability,
    /// NOT_FOUND
    NotFound,
    /// AUTHENTICATION_FAILED
    AuthenticationFailed,
    /// AUTHORIZATION_FAILED
    AuthorizationFailed,
    /// THROTTLED
    Throttled,
    /// TRANSIENT_FAILURE
    TransientFailure,
    /// PROVIDER_ERROR
    ProviderError,
    /// INTERNAL
    Internal,
    /// One that a later contract has.
    Other(String),
}

impl Category {
    /// As the contract writes it.
    pub fn as_str(&self) -> &str {
        match self {
            Category::InvalidRequest => "INVALID_REQUEST",
            Category::CheckpointExpired => "CHECKPOINT_EXPIRED",
            Category::UnsupportedCapability => "UNSUPPORTED_CAPABILITY",
            Category::NotFound => "NOT_FOUND",
            Category::AuthenticationFailed => "AUTHENTICATION_FAILED",
            Category::AuthorizationFailed => "AUTHORIZATION_FAILED",
            Category::Throttled => "THROTTLED",
            Category::TransientFailure => "TRANSIENT_FAILURE",
            Category::ProviderError => "PROVIDER_ERROR",
            Category::Internal => "INTERNAL",
            Category::Other(name) => name,
        }
    }
}

impl From<&str> for Category {
    fn from(name: &str) -> Self {
        match name {
            "INVALID_REQUEST" => Category::InvalidRequest,
            "CHECKPOINT_EXPIRED" => Category::CheckpointExpired,
            "UNSUPPORTED_CAPABILITY" => Category::UnsupportedCapability,
            "NOT_FOUND" => Category::NotFound,
            "AUTHENTICATION_FAILED" => Category::AuthenticationFailed,
            "AUTHORIZATION_FAILED" => Category::AuthorizationFailed,
            "THROTTLED" => Category::Throttled,
            "TRANSIENT_FAILURE" => Category::TransientFailure,
            "PROVIDER_ERROR" => Category::ProviderError,
            "INTERNAL" => Category::Internal,
            other => Category::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A call that failed. `category` is for branching, `reason` for telling cases apart, the text for people.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ChangeFeedError {
    /// The code of gRPC.
    pub code: Code,
    /// What happened, in a sentence.
    pub message: String,
    /// The portable kind.
    pub category: Category,
    /// What exactly went wrong, such as TOKEN_SIGNATURE; empty when the gateway did not answer.
    pub reason: String,
    /// Whether the same call may succeed soon. It is false for PROVIDER_AUTHENTICATION_FAILED and
    /// PROVIDER_AUTHORIZATION_FAILED, although their code is unavailable: they pass when an operator has acted.
    pub retryable: bool,
    /// How long the gateway asks to wait first.
    pub retry_after: Duration,
    /// The database's kind, where the gateway says so.
    pub provider: String,
    /// Finds the call in the gateway's logs.
    pub request_id: String,
    /// Everything else that the gateway says about the failure.
    pub metadata: BTreeMap<String, String>,
    /// The fields of the request that were refused.
    pub violations: Vec<FieldViolation>,
}

/// One field of a request that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// Its path.
    pub field: String,
    /// What is wrong with it.
    pub description: String,
}

impl ChangeFeedError {
    /// A failure of a code, as proxies and connections tell of one: without details.
    pub(crate) fn without_details(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            category: match code {
                Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Internal => {
                    Category::TransientFailure
                }
                Code::Unauthenticated => Category::AuthenticationFailed,
                Code::PermissionDenied => Category::AuthorizationFailed,
                Code::InvalidArgument => Category::InvalidRequest,
                _ => Category::ProviderError,
            },
            reason: String::new(),
            // Cut connections, streams that a proxy reset, and silence; reading again is always safe.
            retryable: matches!(code, Code::Unavailable | Code::Cancelled | Code::Internal | Code::DeadlineExceeded),
            retry_after: Duration::ZERO,
            provider: String::new(),
            request_id: String::new(),
            metadata: BTreeMap::new(),
            violations: Vec::new(),
        }
    }

    fn take_info(&mut self, info: ErrorInfo) {
        if info.reason.is_empty() {
            return;
        }
        self.reason = info.reason;
        self.retryable = info.metadata.get("retryable").is_some_and(|text| text == "true");
        for (name, value) in info.metadata {
            match name.as_str() {
                "category" => self.category = Category::from(value.as_str()),
                "provider" => self.provider = value,
                "request_id" => self.request_id = value,
                "retryable" => {}
                _ => {
                    self.metadata.insert(name, value);
                }
            }
        }
    }
}

impl From<Status> for ChangeFeedError {
    /// Decodes a status, such as `InspectContinuationTokenResponse.problem`.
    fn from(said: Status) -> Self {
        let mut failed = Self::without_details(Code::from_i32(said.code), said.message);
        for detail in said.details {
            // What is no detail comes from somebody on the way, and the code says enough.
            let bytes = detail.value.as_slice();
            match detail.type_url.rsplit('/').next() {
                Some("google.rpc.ErrorInfo") => ErrorInfo::decode(bytes).map(|info| failed.take_info(info)),
                Some("google.rpc.RetryInfo") => {
                    RetryInfo::decode(bytes).map(|info| failed.retry_after = span(info.retry_delay))
                }
                Some("google.rpc.BadRequest") => BadRequest::decode(bytes).map(|refused| {
                    failed.violations = refused
                        .field_violations
                        .into_iter()
                        .map(|one| FieldViolation { field: one.field, description: one.description })
                        .collect();
                }),
                _ => Ok(()),
            }
            .unwrap_or_default();
        }
        failed
    }
}

impl From<tonic::Status> for ChangeFeedError {
    fn from(status: tonic::Status) -> Self {
        if status.source().is_some() {
            // Nobody said it: the connection broke, or none could be made.
            return Self::without_details(Code::Unavailable, with_cause(&status));
        }
        let code = status.code();
        match Status::decode(status.details()) {
            Ok(said) if said.code == code as i32 => said.into(),
            _ => Self::without_details(code, status.message()),
        }
    }
}

/// What happened, and why: the first alone may be "tcp connect error".
fn with_cause(status: &tonic::Status) -> String {
    let said = status.message();
    let first = status.source();
    match std::iter::successors(first, |error| (*error).source()).last().map(ToString::to_string) {
        Some(cause) if !said.contains(&cause) => format!("{said}: {cause}"),
        _ => said.to_owned(),
    }
}

impl fmt::Display for ChangeFeedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason.as_str() {
            "" => write!(f, "{:?}: {}", self.code, self.message)?,
            reason => write!(f, "{reason}: {}", self.message)?,
        }
        match self.request_id.as_str() {
            "" => Ok(()),
            id => write!(f, " [request {id}]"),
        }
    }
}

impl StdError for ChangeFeedError {}

/// A stream that broke without an error of the gateway: silence, an end without farewell, a message that cannot be, or a
/// farewell. A tail opens it again, so it is seen only when patience ends.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamInterrupted {
    /// What happened, in a sentence.
    pub message: String,
    /// How long the gateway asks to wait first.
    pub retry_after: Duration,
    /// Nothing arrived for two heartbeat intervals: the connection is dead, whatever it says.
    pub heartbeat_missed: bool,
}

impl StreamInterrupted {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), retry_after: Duration::ZERO, heartbeat_missed: false }
    }
}

impl fmt::Display for StreamInterrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for StreamInterrupted {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::bad_request;

    fn packed(name: &str, message: &impl prost::Message) -> prost_types::Any {
        prost_types::Any { type_url: format!("type.googleapis.com/google.rpc.{name}"), value: message.encode_to_vec() }
    }

    fn sent(said: &Status) -> ChangeFeedError {
        let details = said.encode_to_vec().into();
        tonic::Status::with_details(Code::from_i32(said.code), said.message.clone(), details).into()
    }

    #[test]
    fn an_error_is_decoded_whole() {
        let metadata = [
            ("category", "INVALID_REQUEST"),
            ("retryable", "false"),
            ("provider", "memory"),
            ("request_id", "r"),
            ("more", "x"),
        ];
        let info = ErrorInfo {
            reason: "FIELD_INVALID".to_owned(),
            metadata: metadata.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            ..ErrorInfo::default()
        };
        let pause = RetryInfo { retry_delay: Some(prost_types::Duration { seconds: 1, nanos: 0 }) };
        let violation =
            bad_request::FieldViolation { field: "a".to_owned(), description: "b".to_owned(), ..Default::default() };
        let refused = BadRequest { field_violations: vec![violation] };
        let failed = sent(&Status {
            code: Code::InvalidArgument as i32,
            message: "m".to_owned(),
            details: vec![packed("ErrorInfo", &info), packed("RetryInfo", &pause), packed("BadRequest", &refused)],
        });
        assert_eq!((failed.code, &failed.category), (Code::InvalidArgument, &Category::InvalidRequest));
        assert_eq!((failed.reason.as_str(), failed.retryable), ("FIELD_INVALID", false));
        assert_eq!((failed.provider.as_str(), failed.request_id.as_str()), ("memory", "r"));
        assert_eq!(failed.retry_after, Duration::from_secs(1));
        assert_eq!(failed.metadata, BTreeMap::from([("more".to_owned(), "x".to_owned())]));
        assert_eq!(failed.violations, [FieldViolation { field: "a".to_owned(), description: "b".to_owned() }]);
        assert_eq!(failed.to_string(), "FIELD_INVALID: m [request r]");
    }

    #[test]
    fn an_error_without_details_is_judged_by_its_code() {
        for (code, category, retryable) in [
            (Code::Unavailable as i32, Category::TransientFailure, true),
            (Code::Internal as i32, Category::TransientFailure, true),
            (Code::DeadlineExceeded as i32, Category::TransientFailure, true),
            (Code::Unauthenticated as i32, Category::AuthenticationFailed, false),
            (Code::DataLoss as i32, Category::ProviderError, false),
            (99, Category::ProviderError, false),
        ] {
            let failed = ChangeFeedError::from(Status { code, ..Status::default() });
            assert_eq!((&failed.category, failed.retryable), (&category, retryable), "{code}");
        }
    }

    #[test]
    fn details_that_are_none_are_passed_over() {
        let broken = prost_types::Any {
            type_url: "type.googleapis.com/google.rpc.ErrorInfo".to_owned(),
            value: vec![0xff, 0xff],
        };
        let said = Status { code: Code::Unavailable as i32, details: vec![broken], ..Status::default() };
        assert!(sent(&said).retryable);
        let noise = tonic::Status::with_details(Code::Unavailable, "m", vec![0xff_u8; 3].into());
        assert!(ChangeFeedError::from(noise).retryable);
    }

    #[test]
    fn a_category_of_a_later_contract_keeps_its_name() {
        assert_eq!(Category::from("LATER").as_str(), "LATER");
        assert_eq!(Category::from(Category::Throttled.as_str()), Category::Throttled);
    }
}
