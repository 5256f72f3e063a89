/** A consumer of the change-feed gateway that resumes where it stopped. */

export type { BearerSource } from "./bearer.js";
export { type Checkpoint, FileCheckpoint, MemoryCheckpoint, type Positions, WHOLE } from "./checkpoint.js";
export { ChangeFeedClient, connect } from "./client.js";
export type { ConnectOptions, Tls } from "./connection.js";
export { type Category, ChangeFeedError, ClientClosed, type FieldViolation, StreamInterrupted } from "./errors.js";
export { formatItem, LosslessNumber, parseItem } from "./items.js";
export type { PartitionsOptions } from "./partitions.js";
export { after, atTime, beginning, collection, logicalPartition, now, physicalPartition, snapshot } from "./positions.js";
export type { Delivery, StreamOptions, TailOptions } from "./tail.js";
