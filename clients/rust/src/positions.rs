//! Where reading starts, and what is read.

use std::time::SystemTime;

use crate::errors::Error;
use crate::messages::feed_scope::Scope;
use crate::messages::start_position::Start;
use crate::messages::{Beginning, FeedScope, Now, ResourceAddress, Snapshot, StartPosition};

fn position(start: Start) -> StartPosition {
    StartPosition { start: Some(start) }
}

/// The oldest retained change.
pub fn beginning() -> StartPosition {
    position(Start::Beginning(Beginning {}))
}

/// What is committed after the gateway's first answer.
pub fn now() -> StartPosition {
    position(Start::Now(Now {}))
}

/// The items that exist, as events of `ChangeType::Snapshot`, then the changes. Gated by CHANGE_FEED_SNAPSHOT.
pub fn snapshot() -> StartPosition {
    position(Start::Snapshot(Snapshot {}))
}

/// Every change committed at or after a time, and possibly some from shortly before.
pub fn at_time(time: SystemTime) -> StartPosition {
    position(Start::AtTime(time.into()))
}

/// After the position of a token from any earlier answer.
pub fn after(continuation_token: impl Into<String>) -> StartPosition {
    position(Start::ContinuationToken(continuation_token.into()))
}

/// The address of "connection/collection". Anything else is [`Error::Argument`].
pub fn collection(path: &str) -> Result<ResourceAddress, Error> {
    match path.split_once('/') {
        Some((connection, collection)) if !connection.is_empty() && !collection.is_empty() => Ok(ResourceAddress {
            connection: connection.to_owned(),
            collection: collection.to_owned(),
            ..ResourceAddress::default()
        }),
        _ => Err(Error::Argument(format!("not connection/collection: {path:?}"))),
    }
}

/// The scope of one physical partition.
pub fn physical_partition(id: impl Into<String>) -> FeedScope {
    FeedScope { scope: Some(Scope::PhysicalPartitionId(id.into())) }
}

/// The scope of one logical partition, named by the text of a key's `partition_key`.
pub fn logical_partition(partition_key: impl Into<String>) -> FeedScope {
    FeedScope { scope: Some(Scope::LogicalPartition(partition_key.into())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collections_have_two_names() {
        for path in ["", "main", "main/", "/documents"] {
            assert!(matches!(collection(path), Err(Error::Argument(_))), "{path:?} was taken");
        }
        assert_eq!(collection("main/a/b").expect("two names").collection, "a/b");
    }
}
