//! Reads the physical partitions of a collection in parallel, children after all their parents.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use futures_util::stream::TryStreamExt as _;
use tokio::task::{JoinError, JoinSet};

use crate::checkpoint::{Checkpoint, Positions, change};
use crate::client::ChangeFeedClient;
use crate::errors::{BoxError, Error};
use crate::messages::{ChildPartition, PhysicalPartition, ResourceAddress, StartPosition};
use crate::outage::sit_out;
use crate::positions::{after, physical_partition};
use crate::tail::{Delivery, Tail, TailOptions};

pub(crate) struct PartitionReader<H> {
    client: ChangeFeedClient,
    address: ResourceAddress,
    checkpoint: Arc<dyn Checkpoint>,
    options: TailOptions,
    handle: Arc<H>,
    /// Of partitions that are not read to their end; what is in none is finished or to come.
    positions: Positions,
    parents: BTreeMap<String, Vec<String>>,
    running: HashSet<String>,
    tasks: JoinSet<Result<End, Error>>,
}

/// A partition that was read to its end.
struct End {
    id: String,
    children: Vec<ChildPartition>,
    /// What was listed because a parent of a child is unknown; none where nobody has looked yet.
    listed: Option<Vec<PhysicalPartition>>,
}

impl<H, F> PartitionReader<H>
where
    H: Fn(String, Delivery) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    pub(crate) fn new(
        client: ChangeFeedClient,
        address: ResourceAddress,
        checkpoint: Arc<dyn Checkpoint>,
        options: TailOptions,
        handle: H,
    ) -> Result<Self, Error> {
        if options.is_of_one_tail() {
            let said = "read_partitions takes no scope, no number of events and no second checkpoint";
            return Err(Error::Argument(said.to_owned()));
        }
        Ok(Self {
            // A call's own tries would know nothing of patience, and would tell nobody.
            client: client.trying_once(),
            address,
            checkpoint,
            options,
            handle: Arc::new(handle),
            positions: Positions::new(),
            parents: BTreeMap::new(),
            running: HashSet::new(),
            tasks: JoinSet::new(),
        })
    }

    pub(crate) async fn run(mut self, start: StartPosition) -> Result<(), Error> {
        self.begin(start).await?;
        let read = self.read_all().await;
        self.tasks.shutdown().await;
        read
    }

    /// Finds the positions: those saved, or those of the start in every partition, fixed before anything is read.
    async fn begin(&mut self, start: StartPosition) -> Result<(), Error> {
        self.positions = self.checkpoint.load().await.map_err(Error::Checkpoint)?;
        let is_first = self.positions.is_empty();
        self.learn(list(self.client.clone(), self.address.clone(), self.options.clone()).await?);
        if !is_first {
            return Ok(());
        }
        let mut ids = self.options.only.clone();
        if ids.is_empty() {
            ids.extend(self.parents.keys().cloned());
        }
        // One that nobody has is the gateway's to refuse; passed over, it would look like one that is finished.
        for id in ids {
            let scope = || Some(physical_partition(id.as_str()));
            let resolve = || self.client.resolve(self.address.clone(), start.clone(), scope());
            let place = sit_out(&self.options, resolve).await?;
            self.positions.insert(id, place.continuation_token);
        }
        self.checkpoint.save(self.positions.clone()).await.map_err(Error::Checkpoint)
    }

    fn learn(&mut self, listed: Vec<PhysicalPartition>) {
        for partition in listed {
            self.parents.entry(partition.partition_id).or_insert(partition.parent_partition_ids);
        }
    }

    /// Whether any ancestor is still read: a parent may be one that its own parents have yet to name.
    fn is_waiting(&self, id: &str) -> bool {
        let parents_of = |id: &str| self.parents.get(id).map_or(&[][..], Vec::as_slice);
        let mut seen = HashSet::new();
        let mut ancestors: Vec<&String> = parents_of(id).iter().collect();
        while let Some(ancestor) = ancestors.pop() {
            if self.positions.contains_key(ancestor) {
                return true;
            }
            if seen.insert(ancestor) {
                ancestors.extend(parents_of(ancestor));
            }
        }
        false
    }

    async fn read_all(&mut self) -> Result<(), Error> {
        while !self.positions.is_empty() {
            self.start_ready();
            match self.tasks.join_next().await {
                Some(Ok(end)) => self.go_on(end?).await?,
                Some(Err(failed)) => return Err(broken(failed)),
                None => return Err(Error::Argument("the partitions wait for each other".to_owned())),
            }
        }
        Ok(())
    }

    fn start_ready(&mut self) {
        for (id, token) in &self.positions {
            if !self.is_waiting(id) && self.running.insert(id.clone()) {
                let options = self.options.clone().scope(physical_partition(id.as_str()));
                let tail = self.client.tail(self.address.clone(), after(token.as_str()), options);
                let (handle, checkpoint) = (Arc::clone(&self.handle), Arc::clone(&self.checkpoint));
                self.tasks.spawn(read(id.clone(), tail, handle, checkpoint));
            }
        }
    }

    /// Retires what is read to its end, once all parents of its children are known.
    async fn go_on(&mut self, mut end: End) -> Result<(), Error> {
        for child in &end.children {
            self.parents.insert(child.partition_id.clone(), child.parent_partition_ids.clone());
        }
        let has_listed = end.listed.is_some();
        self.learn(end.listed.take().unwrap_or_default());
        let mut parents = end.children.iter().flat_map(|child| &child.parent_partition_ids);
        if has_listed || parents.all(|parent| self.parents.contains_key(parent)) {
            return self.retire(end).await;
        }
        // Beside the others: one that fails meanwhile ends all.
        let listing = list(self.client.clone(), self.address.clone(), self.options.clone());
        self.tasks.spawn(async move { Ok(End { listed: Some(listing.await?), ..end }) });
        Ok(())
    }

    /// Puts the children in the place of a partition, in one step, so that a crash leaves the one or the others.
    async fn retire(&mut self, end: End) -> Result<(), Error> {
        self.running.remove(&end.id);
        let mut changes = Positions::from([(end.id, String::new())]);
        for child in end.children {
            let id = child.partition_id;
            // Otherwise another parent, or the first listing, named it already.
            if !self.positions.contains_key(&id) {
                changes.insert(id, child.continuation_token);
            }
        }
        change(&mut self.positions, changes.clone());
        self.checkpoint.save(changes).await.map_err(Error::Checkpoint)
    }
}

/// A task that did not come to its end: a panic of the handler is the caller's, and a runtime that ends ends all.
fn broken(failed: JoinError) -> Error {
    match failed.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => Error::Argument("the runtime ended that the partitions were read in".to_owned()),
    }
}

/// Follows one partition to its end.
async fn read<H, F>(id: String, mut tail: Tail, handle: Arc<H>, checkpoint: Arc<dyn Checkpoint>) -> Result<End, Error>
where
    H: Fn(String, Delivery) -> F,
    F: Future<Output = Result<(), BoxError>>,
{
    let mut children = Vec::new();
    while let Some(delivery) = tail.try_next().await? {
        let token = delivery.continuation_token.clone();
        children.extend(delivery.children.iter().cloned());
        handle(id.clone(), delivery).await.map_err(Error::Handler)?;
        checkpoint.save(Positions::from([(id.clone(), token)])).await.map_err(Error::Checkpoint)?;
    }
    Ok(End { id, children, listed: None })
}

async fn list(
    client: ChangeFeedClient,
    address: ResourceAddress,
    options: TailOptions,
) -> Result<Vec<PhysicalPartition>, Error> {
    sit_out(&options, || client.partitions(address.clone()).try_collect()).await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::checkpoint::MemoryCheckpoint;
    use crate::connection::connect;

    #[tokio::test]
    async fn parents_are_learned_through_an_outage_within_patience() {
        let told = Arc::new(AtomicU32::new(0));
        let options = TailOptions::new().patience(Duration::from_millis(200)).on_reconnect({
            let told = Arc::clone(&told);
            move |_, _| {
                told.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut reader = reader_of_one(options);
        let failed = reader.read_all().await.expect_err("no gateway");
        assert!(failed.is_retryable(), "{failed}");
        assert!(told.load(Ordering::Relaxed) > 0);
    }

    #[tokio::test]
    async fn who_fails_while_parents_are_learned_ends_all_at_once() {
        let mut reader = reader_of_one(TailOptions::new());
        reader.tasks.spawn(async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Err(Error::Handler("its handler failed".into()))
        });
        let ended = tokio::time::timeout(Duration::from_secs(20), reader.read_all()).await.expect("its end");
        assert!(matches!(ended, Err(Error::Handler(_))), "{ended:?}");
    }

    /// A reader without a gateway, whose one partition was read to its end: a child of it has an unknown parent, too.
    fn reader_of_one(options: TailOptions) -> PartitionReader<impl Fn(String, Delivery) -> Handled> {
        let client = connect("127.0.0.1:1").expect("a client");
        let checkpoint = Arc::new(MemoryCheckpoint::default());
        let handle = |_, _| std::future::ready(Ok(()));
        let mut reader =
            PartitionReader::new(client, ResourceAddress::default(), checkpoint, options, handle).expect("a reader");
        let child = ChildPartition {
            partition_id: "child".to_owned(),
            parent_partition_ids: vec!["one".to_owned(), "unknown".to_owned()],
            ..ChildPartition::default()
        };
        reader.positions.insert("one".to_owned(), "t".to_owned());
        reader.running.insert("one".to_owned());
        reader.tasks.spawn(async { Ok(End { id: "one".to_owned(), children: vec![child], listed: None }) });
        reader
    }

    type Handled = std::future::Ready<Result<(), BoxError>>;

    #[tokio::test]
    async fn a_runtime_that_ends_is_no_outage() {
        let task = tokio::spawn(std::future::pending::<()>());
        task.abort();
        assert!(!broken(task.await.expect_err("it was ended")).is_retryable());
    }
}
