/** The generated messages of the contract, with their schemas. */

export * from "../gen/changefeed/v1/capabilities_pb.js";
export * from "../gen/changefeed/v1/change_event_pb.js";
export * from "../gen/changefeed/v1/change_feed_service_pb.js";
export * from "../gen/changefeed/v1/partition_pb.js";
export * from "../gen/changefeed/v1/position_pb.js";
export * from "../gen/changefeed/v1/read_changes_pb.js";
export * from "../gen/changefeed/v1/resource_pb.js";
export * from "../gen/changefeed/v1/subscribe_pb.js";
export * from "../gen/changefeed/v1/token_pb.js";
