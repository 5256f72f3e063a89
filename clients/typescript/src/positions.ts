/** Short ways to say which collection, which part of it, and where to start. */

import { create } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { type StartPosition, StartPositionSchema } from "../gen/changefeed/v1/position_pb.js";
import { type FeedScope, FeedScopeSchema, type ResourceAddress, ResourceAddressSchema } from "../gen/changefeed/v1/resource_pb.js";

/** The oldest retained change. */
export function beginning(): StartPosition {
  return create(StartPositionSchema, { start: { case: "beginning", value: {} } });
}

/** Changes committed after the gateway's first answer. */
export function now(): StartPosition {
  return create(StartPositionSchema, { start: { case: "now", value: {} } });
}

/** The items that exist, as events of `CHANGE_TYPE_SNAPSHOT`, then the changes. Gated by `CHANGE_FEED_SNAPSHOT`. */
export function snapshot(): StartPosition {
  return create(StartPositionSchema, { start: { case: "snapshot", value: {} } });
}

/** Every change committed at or after a time, and possibly some from shortly before. */
export function atTime(time: Date): StartPosition {
  return create(StartPositionSchema, { start: { case: "atTime", value: timestampFromDate(time) } });
}

/** After the position of a token from any earlier answer. */
export function after(continuationToken: string): StartPosition {
  return create(StartPositionSchema, { start: { case: "continuationToken", value: continuationToken } });
}

/** The address of `connection/collection`. Throws RangeError for a text of another shape. */
export function collection(path: string, database = ""): ResourceAddress {
  const slash = path.indexOf("/");
  if (slash < 1 || slash === path.length - 1) {
    throw new RangeError(`not connection/collection: ${JSON.stringify(path)}`);
  }
  return create(ResourceAddressSchema, {
    connection: path.slice(0, slash),
    database,
    collection: path.slice(slash + 1),
  });
}

/** One physical partition. */
export function physicalPartition(id: string): FeedScope {
  return create(FeedScopeSchema, { scope: { case: "physicalPartitionId", value: id } });
}

/** One logical partition, named by the text of `ChangeEvent.key.partitionKey`. */
export function logicalPartition(partitionKey: string): FeedScope {
  return create(FeedScopeSchema, { scope: { case: "logicalPartition", value: partitionKey } });
}
