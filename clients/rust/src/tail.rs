//! Follows a collection live across broken streams.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures_util::stream::{self, Stream, StreamExt as _, TryStreamExt as _};
use prost_types::Timestamp;

use crate::checkpoint::{Checkpoint, Positions, WHOLE};
use crate::connection::Connection;
use crate::errors::{Error, StreamInterrupted};
use crate::messages::feed_scope::Scope;
use crate::messages::subscribe_response::Content;
use crate::messages::{
    ChangeEvent, ChildPartition, ClosingReason, FeedScope, NewItemStateMode, PortabilityWarning, ResourceAddress,
    SnapshotProgress, StartPosition, SubscribeRequest, SubscriptionState,
};
use crate::outage::Outage;
use crate::positions::after;
use crate::seen::Seen;
use crate::spans::{duration, span, time};
use crate::subscription::{Subscription, is_final, is_preamble};

/// What one message of a stream brought. Handle the events, then save the token: a restart goes on after them.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Delivery {
    /// In order for every key; none for a heartbeat and the like.
    pub events: Vec<ChangeEvent>,
    /// Never empty.
    pub continuation_token: String,
    /// Everything that was there has been delivered, and changes arrive as they are committed.
    pub live: bool,
    /// Everything committed before it has been delivered; none where the provider cannot tell.
    pub watermark: Option<SystemTime>,
    /// When the token is expected to lose its history; none where the retention is not known.
    pub token_expire_time: Option<SystemTime>,
    /// The partitions to go on with when the one that was read is retired; the tail ends then.
    pub children: Vec<ChildPartition>,
    /// How far the snapshot has come, in a delivery of one; `finished` in the one that ends it, which has no events.
    pub snapshot: Option<SnapshotProgress>,
    /// What the gateway says when the stream begins: where this collection differs from what portable code expects.
    /// In the first delivery only.
    pub warnings: Vec<PortabilityWarning>,
}

type Announce = Arc<dyn Fn(&Error, Duration) + Send + Sync>;

/// How a tail reads.
#[derive(Clone, Default)]
pub struct TailOptions {
    scope: Option<FeedScope>,
    items: NewItemStateMode,
    max_batch_size: i32,
    heartbeat_interval: Option<Duration>,
    max_events: i64,
    pub(crate) patience: Option<Duration>,
    deduplicate: usize,
    checkpoint: Option<Arc<dyn Checkpoint>>,
    pub(crate) on_reconnect: Option<Announce>,
    pub(crate) only: Vec<String>,
}

impl TailOptions {
    /// As the gateway has it: all of the collection, for ever.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a part of the collection.
    pub fn scope(mut self, scope: FeedScope) -> Self {
        self.scope = Some(scope);
        self
    }

    /// Says whether events carry the item after the change.
    pub fn items(mut self, mode: NewItemStateMode) -> Self {
        self.items = mode;
        self
    }

    /// Bounds the events of a batch.
    pub fn max_batch_size(mut self, most: i32) -> Self {
        self.max_batch_size = most;
        self
    }

    /// Asks for a heartbeat after so long a silence; after two that did not come the stream is opened again.
    pub fn heartbeat_interval(mut self, interval: Duration) -> Self {
        self.heartbeat_interval = Some(interval);
        self
    }

    /// Ends the tail after so many events, reconnects included; 0 means never.
    pub fn max_events(mut self, most: i64) -> Self {
        self.max_events = most;
        self
    }

    /// Bounds an outage, from its first failure on; without it a tail reconnects for ever.
    pub fn patience(mut self, longest: Duration) -> Self {
        self.patience = Some(longest);
        self
    }

    /// Leaves out events that are among the last so many by their id. Redelivery follows a reconnect; after a restart the
    /// window is empty, so work that must not be done twice is saved in one transaction with the token.
    pub fn deduplicate(mut self, last: usize) -> Self {
        self.deduplicate = last;
        self
    }

    /// Starts at the saved position, or at the start if there is none, and saves each delivery's token when the next one
    /// is asked for: the loop's body has then handled the delivery. A tail that is dropped saves nothing of its last
    /// delivery, which comes again from a new tail.
    pub fn checkpoint(mut self, checkpoint: impl Checkpoint + 'static) -> Self {
        self.checkpoint = Some(Arc::new(checkpoint));
        self
    }

    /// Tells of every interruption and of the pause before it is tried again: to open the stream, and in
    /// [`crate::ChangeFeedClient::read_partitions`] also to list partitions and to fix positions. Without it an outage
    /// is silent, one that begins with a wrong address too.
    pub fn on_reconnect(mut self, told: impl Fn(&Error, Duration) + Send + Sync + 'static) -> Self {
        self.on_reconnect = Some(Arc::new(told));
        self
    }

    /// Makes [`crate::ChangeFeedClient::read_partitions`] begin with these physical partitions in place of all. Other
    /// processes may read the others, each with a checkpoint of its own; a child whose parents two of them read waits for
    /// its own reader's only. One that the collection does not have is NOT_FOUND.
    pub fn partitions<I: Into<String>>(mut self, ids: impl IntoIterator<Item = I>) -> Self {
        self.only = ids.into_iter().map(Into::into).collect();
        self
    }

    /// Whether it has what only a single tail has.
    pub(crate) fn is_of_one_tail(&self) -> bool {
        self.scope.is_some() || self.max_events != 0 || self.checkpoint.is_some()
    }

    fn request(&self, address: ResourceAddress, start: StartPosition) -> SubscribeRequest {
        SubscribeRequest {
            address: Some(address),
            scope: self.scope.clone(),
            start_position: Some(start),
            new_item_state_mode: self.items.into(),
            max_batch_size: self.max_batch_size,
            heartbeat_interval: self.heartbeat_interval.map(duration),
            max_events: self.max_events,
        }
    }

    fn name(&self) -> &str {
        match &self.scope {
            Some(FeedScope { scope: Some(Scope::PhysicalPartitionId(id)) }) => id,
            _ => WHOLE,
        }
    }
}

impl fmt::Debug for TailOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TailOptions").finish_non_exhaustive()
    }
}

/// The deliveries of a collection, as [`crate::ChangeFeedClient::tail`] follows it. Dropping it ends it and its stream;
/// it outlives the client that made it.
pub struct Tail {
    deliveries: Pin<Box<dyn Stream<Item = Result<Delivery, Error>> + Send>>,
}

impl Tail {
    pub(crate) fn new(
        connection: Connection,
        address: ResourceAddress,
        start: StartPosition,
        options: TailOptions,
    ) -> Self {
        let reading = Reading::new(connection, options.request(address, start), options);
        let deliveries = stream::try_unfold(reading, |mut reading| async move {
            Ok(reading.next().await?.map(|delivery| (delivery, reading)))
        });
        Self { deliveries: deliveries.boxed() }
    }

    /// The next delivery; none at the tail's end. What was awaited and dropped is not lost: it comes with the next call.
    pub async fn try_next(&mut self) -> Result<Option<Delivery>, Error> {
        self.deliveries.try_next().await
    }
}

impl Stream for Tail {
    type Item = Result<Delivery, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.deliveries.as_mut().poll_next(context)
    }
}

impl fmt::Debug for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tail").finish_non_exhaustive()
    }
}

/// The position, and the stream that is open.
struct Reading {
    shared: Connection,
    /// The client's, or one dialled anew when that was dead.
    connection: Connection,
    options: TailOptions,
    request: SubscribeRequest,
    stream: Option<Subscription>,
    outage: Outage,
    seen: Seen,
    token: String,
    live: bool,
    delivered: i64,
    has_begun: bool,
    has_ended: bool,
}

impl Reading {
    fn new(connection: Connection, request: SubscribeRequest, options: TailOptions) -> Self {
        Self {
            shared: connection.clone(),
            connection,
            outage: Outage::new(options.patience),
            seen: Seen::new(options.deduplicate),
            options,
            request,
            stream: None,
            token: String::new(),
            live: false,
            delivered: 0,
            has_begun: false,
            has_ended: false,
        }
    }

    async fn next(&mut self) -> Result<Option<Delivery>, Error> {
        self.settle().await?;
        while !self.has_ended {
            let received = self.receive().await;
            match received.and_then(|content| Ok(self.take(content)?)) {
                Ok(said) => {
                    self.outage.over();
                    if said.is_some() {
                        return Ok(said);
                    }
                }
                Err(error) => self.recover(error).await?,
            }
        }
        self.stream = None;
        Ok(None)
    }

    /// At first takes up the saved position; then saves the one that was handled, as the next is asked for.
    async fn settle(&mut self) -> Result<(), Error> {
        let Some(checkpoint) = &self.options.checkpoint else { return Ok(()) };
        let name = self.options.name();
        if self.has_begun {
            let changes = Positions::from([(name.to_owned(), self.token.clone())]);
            return checkpoint.save(changes).await.map_err(Error::Checkpoint);
        }
        let saved = checkpoint.load().await.map_err(Error::Checkpoint)?.remove(name);
        if let Some(token) = saved.filter(|token| !token.is_empty()) {
            self.request.start_position = Some(after(token));
        }
        self.has_begun = true;
        Ok(())
    }

    /// What the next message brings, from a new stream if the last one broke. What every new stream says first is passed
    /// over when it is not the first one: only what follows counts as progress that ends the growth of pauses.
    async fn receive(&mut self) -> Result<Option<Content>, Error> {
        let reopening = self.stream.is_none() && !self.token.is_empty();
        let stream = match self.stream.take() {
            Some(open) => open,
            None => Subscription::new(self.connection.clone(), self.next_request()),
        };
        let stream = self.stream.insert(stream);
        let mut content = stream.read().await?;
        while reopening && is_preamble(content.as_ref()) {
            content = stream.read().await?;
        }
        Ok(content)
    }

    /// Moves the position over a message and says what it brought; nothing for a message of a later contract. A farewell,
    /// and the lack of a token to go on from, interrupt.
    fn take(&mut self, content: Option<Content>) -> Result<Option<Delivery>, StreamInterrupted> {
        let Some(content) = content else { return Ok(None) };
        let mut delivery = match content {
            Content::Opened(opened) => {
                Delivery { warnings: opened.warnings, ..placed(opened.continuation_token, opened.token_expire_time) }
            }
            Content::Batch(batch) => {
                let mut delivery = placed(batch.continuation_token, batch.token_expire_time);
                delivery.watermark = time(batch.watermark);
                delivery.snapshot = batch.snapshot;
                delivery.events = batch.events;
                delivery
            }
            Content::Heartbeat(heartbeat) => {
                let mut delivery = placed(heartbeat.continuation_token, heartbeat.token_expire_time);
                delivery.watermark = time(heartbeat.watermark);
                delivery
            }
            Content::PartitionRetired(retired) => {
                Delivery { children: retired.child_partitions, ..placed(retired.continuation_token, None) }
            }
            Content::SnapshotFinished(finished) => Delivery {
                snapshot: finished.snapshot,
                ..placed(finished.continuation_token, finished.token_expire_time)
            },
            Content::StateChanged(changed) => {
                self.live = changed.state() == SubscriptionState::Live;
                placed(self.token.clone(), None)
            }
            Content::Closing(closing) if is_final(closing.reason) => {
                self.has_ended = !closing.continuation_token.is_empty();
                placed(closing.continuation_token, None)
            }
            Content::Closing(closing) => {
                if !closing.continuation_token.is_empty() {
                    self.move_to(&closing.continuation_token);
                }
                let reason = ClosingReason::try_from(closing.reason).map_or("unknown", |reason| reason.as_str_name());
                let interrupted = StreamInterrupted::new(format!("closed by the gateway: {reason}"));
                return Err(StreamInterrupted { retry_after: span(closing.reconnect_after), ..interrupted });
            }
        };
        if delivery.continuation_token.is_empty() {
            return Err(StreamInterrupted::new("a message came without a token"));
        }
        self.move_to(&delivery.continuation_token);
        self.delivered += i64::try_from(delivery.events.len()).unwrap_or(i64::MAX);
        self.has_ended |= self.request.max_events > 0 && self.delivered >= self.request.max_events;
        delivery.events = self.seen.fresh(delivery.events);
        delivery.live = self.live;
        Ok(Some(delivery))
    }

    fn move_to(&mut self, token: &str) {
        token.clone_into(&mut self.token);
        self.request.start_position = Some(after(token));
    }

    fn next_request(&self) -> SubscribeRequest {
        let mut request = self.request.clone();
        if request.max_events > 0 {
            request.max_events -= self.delivered;
        }
        request
    }

    async fn recover(&mut self, error: Error) -> Result<(), Error> {
        self.live = false;
        self.stream = None;
        if matches!(&error, Error::Interrupted(StreamInterrupted { heartbeat_missed: true, .. })) {
            // It would be used again until a keepalive ping finds out that it is dead.
            self.connection = self.shared.redial();
        }
        self.outage.wait(error, &self.options).await
    }
}

/// What a message says of its token.
fn placed(continuation_token: String, token_expire_time: Option<Timestamp>) -> Delivery {
    Delivery { continuation_token, token_expire_time: time(token_expire_time), ..Delivery::default() }
}
