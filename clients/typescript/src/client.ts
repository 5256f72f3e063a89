/** The six calls of the gateway, with the retries that are safe. */

import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { type GetCapabilitiesResponse, GetCapabilitiesRequestSchema } from "../gen/changefeed/v1/capabilities_pb.js";
import { ChangeFeedService } from "../gen/changefeed/v1/change_feed_service_pb.js";
import { ListPhysicalPartitionsRequestSchema, type PhysicalPartition } from "../gen/changefeed/v1/partition_pb.js";
import type { StartPosition } from "../gen/changefeed/v1/position_pb.js";
import { ReadChangesRequestSchema, type ReadChangesResponse } from "../gen/changefeed/v1/read_changes_pb.js";
import type { FeedScope, ResourceAddress } from "../gen/changefeed/v1/resource_pb.js";
import {
  type InspectContinuationTokenResponse,
  InspectContinuationTokenRequestSchema,
  type ResolveStartPositionResponse,
  ResolveStartPositionRequestSchema,
} from "../gen/changefeed/v1/token_pb.js";
import { Connection, type ConnectOptions } from "./connection.js";
import { type PartitionsOptions, PartitionReader } from "./partitions.js";
import { either } from "./signals.js";
import { milliseconds } from "./spans.js";
import { type Delivery, deliveries, type StreamOptions, type TailOptions } from "./tail.js";

const DEADLINE = 30_000;
/** Of a wait; no date is beyond any calendar. */
const LONGEST_WAIT = 86_400_000;

/**
 * One gateway. Every call throws ChangeFeedError, the reason of its signal when that ended it, or ClientClosed once the
 * client is closed.
 */
export class ChangeFeedClient {
  /** Use `connect`. */
  constructor(private readonly connection: Connection) {}

  /**
   * Ends tails, readers of partitions and calls with ClientClosed, those under way and all later ones. One tail alone ends
   * when its loop is left, or by its signal.
   */
  close(): void {
    this.connection.close();
  }

  /**
   * Follows a collection live, and opens a new stream from the last token whenever one breaks. It ends when `maxEvents`
   * have come or the partition that is read is retired. It throws a ChangeFeedError that is final, the outage that
   * outlasted patience, what the checkpoint threw, the signal's reason, or ClientClosed. Delivery is at least once. gRPC
   * reads up to 16 messages ahead of the loop.
   */
  tail(address: ResourceAddress, start: StartPosition, options: TailOptions = {}): AsyncGenerator<Delivery, void, undefined> {
    return deliveries(this.connection, address, start, this.#untilClosed(options));
  }

  /**
   * Follows the physical partitions of a collection in parallel, a tail each, then the children of retired ones: a child
   * begins once all its parents are read to their end, so that every key keeps its order. `handle` is called for one
   * delivery of a partition after the other, and for those of several partitions at the same time; a token is saved when
   * it resolved. The checkpoint's positions go before `start`. An outage is waited for up to `patience`, also where
   * partitions are listed and positions fixed. It throws what `handle`, the checkpoint, a call or a tail threw first, and
   * resolves when every partition is retired without children.
   */
  readPartitions(
    address: ResourceAddress,
    start: StartPosition,
    handle: (partitionId: string, delivery: Delivery) => Promise<void>,
    options: PartitionsOptions,
  ): Promise<void> {
    return new PartitionReader(this, address, handle, this.#untilClosed(options)).run(start);
  }

  /** One page; with `maxWait` the gateway may wait for it. Save its token, also when it is empty. */
  readPage(request: MessageInitShape<typeof ReadChangesRequestSchema>, signal?: AbortSignal): Promise<ReadChangesResponse> {
    const whole = create(ReadChangesRequestSchema, request);
    const longest = DEADLINE + Math.min(milliseconds(whole.maxWait), LONGEST_WAIT);
    return this.connection.call(ChangeFeedService.method.readChanges, whole, longest, signal);
  }

  /** The physical partitions that hold retained changes, parents before their children. */
  async *partitions(address: ResourceAddress, signal?: AbortSignal): AsyncGenerator<PhysicalPartition, void, undefined> {
    const method = ChangeFeedService.method.listPhysicalPartitions;
    let pageToken = "";
    do {
      const request = create(ListPhysicalPartitionsRequestSchema, { address, pageToken });
      const page = await this.connection.call(method, request, DEADLINE, signal);
      yield* page.partitions;
      pageToken = page.nextPageToken;
    } while (pageToken);
  }

  /** What a collection can do. */
  capabilities(address: ResourceAddress, signal?: AbortSignal): Promise<GetCapabilitiesResponse> {
    const request = create(GetCapabilitiesRequestSchema, { address });
    return this.connection.call(ChangeFeedService.method.getCapabilities, request, DEADLINE, signal);
  }

  /** A start position as a token; without a scope, of the entire collection. */
  resolve(
    address: ResourceAddress,
    start: StartPosition,
    scope?: FeedScope,
    signal?: AbortSignal,
  ): Promise<ResolveStartPositionResponse> {
    const request = create(ResolveStartPositionRequestSchema, { address, startPosition: start, ...(scope && { scope }) });
    return this.connection.call(ChangeFeedService.method.resolveStartPosition, request, DEADLINE, signal);
  }

  /** What a token is, and whether it can be used; one that cannot is an answer, not an error. */
  inspect(
    address: ResourceAddress,
    continuationToken: string,
    signal?: AbortSignal,
  ): Promise<InspectContinuationTokenResponse> {
    const request = create(InspectContinuationTokenRequestSchema, { address, continuationToken });
    return this.connection.call(ChangeFeedService.method.inspectContinuationToken, request, DEADLINE, signal);
  }

  /** With a signal of its own for each: Node warns of one with more than ten listeners. */
  #untilClosed<T extends StreamOptions>(options: T): T {
    return { ...options, signal: either(options.signal, this.connection.closed) };
  }
}

/** A client of the gateway at `host:port`, in plaintext unless told otherwise. It connects with its first call. */
export function connect(target: string, options: ConnectOptions = {}): ChangeFeedClient {
  return new ChangeFeedClient(new Connection(target, options));
}
