//! One call of Subscribe, with its watchdog.

use std::time::Duration;

use tokio::time::timeout;
use tonic::Streaming;

use crate::connection::Connection;
use crate::errors::{Error, StreamInterrupted};
use crate::messages::subscribe_response::Content;
use crate::messages::{ClosingReason, SubscribeRequest, SubscribeResponse, SubscriptionState};
use crate::spans::span;

/// How long a stream may take to send its first message.
const LONGEST_OPENING: Duration = Duration::from_secs(20);
const MISSED_HEARTBEATS: u32 = 2;

/// Dropping it cancels the call.
pub(crate) struct Subscription {
    connection: Connection,
    request: Option<SubscribeRequest>,
    open: Option<Streaming<SubscribeResponse>>,
    silence: Duration,
    sequence: i64,
}

impl Subscription {
    /// Calls when it is read.
    pub(crate) fn new(connection: Connection, request: SubscribeRequest) -> Self {
        Self { connection, request: Some(request), open: None, silence: LONGEST_OPENING, sequence: 0 }
    }

    /// What the next message brings; nothing known for one of a later contract. The watchdog runs only here: while the
    /// reader handles what came, silence is its own.
    pub(crate) async fn read(&mut self) -> Result<Option<Content>, Error> {
        let silence = self.silence;
        let Ok(received) = timeout(silence, self.receive()).await else {
            let message = format!("nothing arrived for {silence:?}");
            return Err(StreamInterrupted { heartbeat_missed: true, ..StreamInterrupted::new(message) }.into());
        };
        match received? {
            Some(message) => {
                self.check(&message)?;
                Ok(message.content)
            }
            None => Err(StreamInterrupted::new("the stream ended without saying why").into()),
        }
    }

    async fn receive(&mut self) -> Result<Option<SubscribeResponse>, Error> {
        if let Some(request) = self.request.take() {
            let request = self.connection.request(request)?;
            self.open = Some(self.connection.service().subscribe(request).await?.into_inner());
        }
        match &mut self.open {
            Some(open) => Ok(open.message().await?),
            None => Ok(None),
        }
    }

    fn check(&mut self, message: &SubscribeResponse) -> Result<(), StreamInterrupted> {
        self.sequence = self.sequence.saturating_add(1);
        if message.delivery_sequence != self.sequence {
            // What is missing in between is asked for again.
            let (came, due) = (message.delivery_sequence, self.sequence);
            return Err(StreamInterrupted::new(format!("message {came} came where {due} was due")));
        }
        if let Some(Content::Opened(opened)) = &message.content {
            self.silence = match span(opened.heartbeat_interval) {
                Duration::ZERO => LONGEST_OPENING,
                interval => interval.saturating_mul(MISSED_HEARTBEATS),
            };
        }
        Ok(())
    }
}

/// What every new stream says first.
pub(crate) fn is_preamble(content: Option<&Content>) -> bool {
    match content {
        Some(Content::Opened(_)) => true,
        Some(Content::StateChanged(changed)) => changed.state() != SubscriptionState::Live,
        _ => false,
    }
}

/// Whether nothing follows in good order.
pub(crate) fn is_final(reason: i32) -> bool {
    matches!(ClosingReason::try_from(reason), Ok(ClosingReason::MaxEvents | ClosingReason::PartitionRetired))
}
