//! The six calls of the gateway, with the retries that are safe.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt as _, TryStreamExt as _};

use crate::checkpoint::Checkpoint;
use crate::connection::Connection;
use crate::errors::{BoxError, Error};
use crate::messages::{
    FeedScope, GetCapabilitiesRequest, GetCapabilitiesResponse, InspectContinuationTokenRequest,
    InspectContinuationTokenResponse, ListPhysicalPartitionsRequest, PhysicalPartition, ReadChangesRequest,
    ReadChangesResponse, ResolveStartPositionRequest, ResolveStartPositionResponse, ResourceAddress, StartPosition,
};
use crate::partitions::PartitionReader;
use crate::spans::span;
use crate::tail::{Delivery, Tail, TailOptions};

const DEADLINE: Duration = Duration::from_secs(30);
/// Of a wait; no date is beyond any calendar.
const LONGEST_WAIT: Duration = Duration::from_secs(86_400);

/// One gateway; [`crate::connect`] makes it. Clones share its connection. There is nothing to close: dropping a [`Tail`],
/// or the future of a call, ends that one, and the connection is closed when the last that uses it is dropped. Dropping a
/// client leaves its tails as they are.
#[derive(Clone)]
pub struct ChangeFeedClient {
    connection: Connection,
}

impl ChangeFeedClient {
    pub(crate) fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// The same, whose calls are tried once.
    pub(crate) fn trying_once(self) -> Self {
        Self { connection: self.connection.trying_once() }
    }

    /// Follows a collection live, and opens a new stream from the last token whenever one breaks. It ends when the events
    /// of [`TailOptions::max_events`] have come or the partition that is read is retired. An error is its last value: a
    /// call's that is final, the outage that outlasted patience, or what the checkpoint returned. Delivery is at least
    /// once. Dropping it ends it.
    pub fn tail(&self, address: ResourceAddress, start: StartPosition, options: TailOptions) -> Tail {
        Tail::new(self.connection.clone(), address, start, options)
    }

    /// Follows the physical partitions of a collection in parallel, a task each, and goes on with the children of those
    /// that retire: a child once all its parents are read to their end, so that every key keeps its order. `handle` is
    /// called for one delivery of a partition after the other, and for those of several partitions at the same time; a
    /// delivery's token is saved when it returned. The checkpoint's positions go before `start`. An outage is waited for
    /// within [`TailOptions::patience`], also where partitions are listed and positions fixed. It returns what `handle`,
    /// the checkpoint, a call or a tail returned first, after all others have ended; `Ok` when every partition is retired
    /// without children. Dropping its future ends all tasks. Options that are a single tail's (scope, number of events,
    /// checkpoint) are [`Error::Argument`].
    pub async fn read_partitions<H, F>(
        &self,
        address: ResourceAddress,
        start: StartPosition,
        checkpoint: impl Checkpoint + 'static,
        options: TailOptions,
        handle: H,
    ) -> Result<(), Error>
    where
        H: Fn(String, Delivery) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        PartitionReader::new(self.clone(), address, Arc::new(checkpoint), options, handle)?.run(start).await
    }

    /// One page; with `max_wait` the gateway may wait for it. Save its token, also when it is empty.
    pub async fn read_page(&self, request: ReadChangesRequest) -> Result<ReadChangesResponse, Error> {
        let deadline = DEADLINE + span(request.max_wait).min(LONGEST_WAIT);
        self.connection
            .call(deadline, request, |mut service, request| async move { service.read_changes(request).await })
            .await
    }

    /// The physical partitions that hold retained changes, parents before their children.
    pub fn partitions(
        &self,
        address: ResourceAddress,
    ) -> impl Stream<Item = Result<PhysicalPartition, Error>> + Send + use<> {
        let connection = self.connection.clone();
        let first = ListPhysicalPartitionsRequest { address: Some(address), ..Default::default() };
        stream::try_unfold(Some(first), move |question| {
            let connection = connection.clone();
            async move {
                let Some(mut question) = question else { return Ok::<_, Error>(None) };
                let page = connection
                    .call(DEADLINE, question.clone(), |mut service, request| async move {
                        service.list_physical_partitions(request).await
                    })
                    .await?;
                question.page_token = page.next_page_token;
                let next = (!question.page_token.is_empty()).then_some(question);
                Ok(Some((stream::iter(page.partitions).map(Ok::<_, Error>), next)))
            }
        })
        .try_flatten()
        .boxed()
    }

    /// What a collection can do.
    pub async fn capabilities(&self, address: ResourceAddress) -> Result<GetCapabilitiesResponse, Error> {
        let request = GetCapabilitiesRequest { address: Some(address) };
        self.connection
            .call(DEADLINE, request, |mut service, request| async move { service.get_capabilities(request).await })
            .await
    }

    /// A start position as a token; without a scope, of the entire collection.
    pub async fn resolve(
        &self,
        address: ResourceAddress,
        start: StartPosition,
        scope: Option<FeedScope>,
    ) -> Result<ResolveStartPositionResponse, Error> {
        let request = ResolveStartPositionRequest { address: Some(address), start_position: Some(start), scope };
        self.connection
            .call(
                DEADLINE,
                request,
                |mut service, request| async move { service.resolve_start_position(request).await },
            )
            .await
    }

    /// What a token is, and whether it can be used; one that cannot is an answer, not an error.
    pub async fn inspect(
        &self,
        address: ResourceAddress,
        continuation_token: impl Into<String>,
    ) -> Result<InspectContinuationTokenResponse, Error> {
        let continuation_token = continuation_token.into();
        let request = InspectContinuationTokenRequest { address: Some(address), continuation_token };
        self.connection
            .call(
                DEADLINE,
                request,
                |mut service, request| async move { service.inspect_continuation_token(request).await },
            )
            .await
    }
}

impl std::fmt::Debug for ChangeFeedClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChangeFeedClient").finish_non_exhaustive()
    }
}
