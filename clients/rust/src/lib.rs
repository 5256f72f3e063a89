#![doc = include_str!("../README.md")]

mod checkpoint;
mod client;
mod connection;
mod errors;
mod items;
mod outage;
mod partitions;
mod positions;
mod seen;
mod spans;
mod subscription;
mod tail;

#[allow(missing_docs, clippy::all)]
#[rustfmt::skip]
#[path = "../gen/mod.rs"]
mod generated;

pub use checkpoint::{Checkpoint, FileCheckpoint, MemoryCheckpoint, Positions, WHOLE};
pub use client::ChangeFeedClient;
pub use connection::{ConnectOptions, Tls, connect};
pub use errors::{BoxError, Category, ChangeFeedError, Error, FieldViolation, StreamInterrupted};
pub use items::parse_item;
pub use positions::{after, at_time, beginning, collection, logical_partition, now, physical_partition, snapshot};
pub use tail::{Delivery, Tail, TailOptions};

/// What a [`Checkpoint`] of one's own is written with.
pub use tonic::async_trait;

/// The messages of the contract, made from `proto/`.
pub use generated::changefeed::v1 as messages;

/// The error details of Google, as `InspectContinuationTokenResponse.problem` has them.
pub use generated::google::rpc;
