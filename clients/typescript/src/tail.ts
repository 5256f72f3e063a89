/** A stream of changes that outlives connections: it watches heartbeats, reconnects and resumes. */

import { clone, create } from "@bufbuild/protobuf";
import type { ChangeEvent } from "../gen/changefeed/v1/change_event_pb.js";
import type { ChildPartition } from "../gen/changefeed/v1/partition_pb.js";
import type { StartPosition } from "../gen/changefeed/v1/position_pb.js";
import type { NewItemStateMode, PortabilityWarning, SnapshotProgress } from "../gen/changefeed/v1/read_changes_pb.js";
import type { FeedScope, ResourceAddress } from "../gen/changefeed/v1/resource_pb.js";
import {
  ClosingReason,
  type SubscribeRequest,
  SubscribeRequestSchema,
  type SubscribeResponse,
  SubscriptionState,
} from "../gen/changefeed/v1/subscribe_pb.js";
import { type Checkpoint, WHOLE } from "./checkpoint.js";
import type { Connection } from "./connection.js";
import { StreamInterrupted } from "./errors.js";
import { Outage } from "./outage.js";
import { after } from "./positions.js";
import { Seen } from "./seen.js";
import { date, duration, milliseconds } from "./spans.js";
import { isPreamble, SubscribeStream } from "./stream.js";

/** What one message of a stream brought. Handle the events, then save the token: a restart goes on after them. */
export interface Delivery {
  /** In order for every key; empty for a heartbeat and the like. */
  readonly events: readonly ChangeEvent[];
  /** Never empty. */
  readonly continuationToken: string;
  /** Whether everything that was there has been delivered, and changes arrive as they are committed. */
  readonly live: boolean;
  /** Everything committed before it has been delivered, where the provider can tell. */
  readonly watermark: Date | undefined;
  /** When the token is expected to lose its history, where the retention is known. */
  readonly tokenExpireTime: Date | undefined;
  /** The partitions to go on with when the one that was read is retired; the tail ends then. */
  readonly children: readonly ChildPartition[];
  /** How far the snapshot has come, in a delivery of one; `finished` in the one that ends it, which has no events. */
  readonly snapshot: SnapshotProgress | undefined;
  /** Where the collection differs from what portable code expects: in the first delivery of a tail, empty in the others. */
  readonly warnings: readonly PortabilityWarning[];
}

/** How a stream is read. All times are milliseconds. */
export interface StreamOptions {
  /** Whether events carry the item after the change. */
  readonly items?: NewItemStateMode;
  /** Most events of a batch. */
  readonly maxBatchSize?: number;
  /** Asks for a heartbeat after so long a silence; after two that did not come the stream is opened again. */
  readonly heartbeatInterval?: number;
  /** Bounds an outage, from its first failure on; without it a tail reconnects for ever. */
  readonly patience?: number;
  /**
   * Leaves out events that are among the last so many by their id. Redelivery follows a reconnect; after a restart the
   * window is empty, so work that must not be done twice is saved in one transaction with the token.
   */
  readonly deduplicate?: number;
  /** Ends the reading from outside: whoever waits for a delivery is thrown its reason. */
  readonly signal?: AbortSignal;
  /**
   * Told of every interruption and of the pause before the next try: a stream is opened again, or partitions are listed or
   * their positions fixed again.
   */
  readonly onReconnect?: (error: unknown, pause: number) => void;
}

export interface TailOptions extends StreamOptions {
  /** A part of the collection. */
  readonly scope?: FeedScope;
  /** Ends the tail after so many events, reconnects included. */
  readonly maxEvents?: number;
  /**
   * Starts at the saved position, or at the start if there is none, and saves each delivery's token when the loop asks
   * for the next one: its body has then handled the delivery. A loop that is left ends its tail and saves nothing of its
   * last delivery, which comes again from a new tail.
   */
  readonly checkpoint?: Checkpoint;
}

/** The deliveries of one iteration; see `ChangeFeedClient.tail`. */
export async function* deliveries(
  connection: Connection,
  address: ResourceAddress,
  start: StartPosition,
  options: TailOptions,
): AsyncGenerator<Delivery, void, undefined> {
  const { checkpoint, scope } = options;
  const name = scope?.scope.case === "physicalPartitionId" ? scope.scope.value : WHOLE;
  const saved = (await checkpoint?.load())?.get(name);
  const tail = new Tail(connection, address, saved ? after(saved) : start, options);
  try {
    for (let delivery = await tail.next(); delivery; delivery = await tail.next()) {
      yield delivery;
      await checkpoint?.save(new Map([[name, delivery.continuationToken]]));
    }
  } finally {
    tail.close();
  }
}

/** One iteration: the position, and the stream that is open. */
class Tail {
  readonly #request: SubscribeRequest;
  readonly #outage: Outage;
  readonly #seen: Seen;
  #connection: Connection;
  #stream: SubscribeStream | undefined;
  #token = "";
  #live = false;
  #delivered = 0n;
  #ended = false;

  constructor(
    private readonly shared: Connection,
    address: ResourceAddress,
    start: StartPosition,
    private readonly options: TailOptions,
  ) {
    const heartbeatInterval = duration(options.heartbeatInterval);
    this.#connection = shared;
    this.#outage = new Outage(options.patience ?? Number.POSITIVE_INFINITY);
    this.#seen = new Seen(options.deduplicate ?? 0);
    this.#request = create(SubscribeRequestSchema, {
      address,
      startPosition: start,
      maxEvents: BigInt(options.maxEvents ?? 0),
      maxBatchSize: options.maxBatchSize ?? 0,
      newItemStateMode: options.items ?? 0,
      ...(options.scope && { scope: options.scope }),
      ...(heartbeatInterval && { heartbeatInterval }),
    });
  }

  async next(): Promise<Delivery | undefined> {
    while (!this.#ended) {
      let message: SubscribeResponse;
      try {
        message = await this.#receive();
      } catch (error) {
        this.#hangUp();
        await this.#recover(error);
        continue;
      }
      this.#outage.end();
      const delivery = this.#take(message);
      if (delivery) {
        return delivery;
      }
    }
    return undefined;
  }

  close(): void {
    this.#hangUp();
    this.#leave();
  }

  /**
   * The next message, from a new stream if the last one broke. What every new stream says first is passed over when it is
   * not the first one: only what follows counts as progress that ends the growth of pauses.
   */
  async #receive(): Promise<SubscribeResponse> {
    const { signal } = this.options;
    signal?.throwIfAborted();
    const reopening = !this.#stream && this.#token !== "";
    this.#stream ??= new SubscribeStream(this.#connection.subscribe(this.#nextRequest(), signal));
    let message = await this.#stream.read(signal);
    while (reopening && isPreamble(message)) {
      message = await this.#stream.read(signal);
    }
    this.#throwIfInterrupted(message);
    return message;
  }

  #throwIfInterrupted({ content }: SubscribeResponse): void {
    if (content.case === undefined) {
      return; // Of a later contract.
    }
    const token = content.case === "stateChanged" ? this.#token : content.value.continuationToken;
    if (content.case === "closing" && !isFinal(content.value.reason)) {
      if (token) {
        this.#move(token);
      }
      const reason = ClosingReason[content.value.reason] ?? content.value.reason;
      throw new StreamInterrupted(`closed by the gateway: ${reason}`, milliseconds(content.value.reconnectAfter));
    }
    if (!token) {
      throw new StreamInterrupted(`${content.case} came without a token`);
    }
  }

  /** Moves the position over a message and says what it brought; nothing for a message of a later contract. */
  #take({ content }: SubscribeResponse): Delivery | undefined {
    switch (content.case) {
      case "opened":
      case "heartbeat":
      case "snapshotFinished":
        return this.#deliver(content.value);
      case "batch":
        this.#delivered += BigInt(content.value.events.length);
        return this.#deliver({ ...content.value, events: this.#seen.fresh(content.value.events) });
      case "partitionRetired":
        return this.#deliver(content.value, content.value.childPartitions);
      case "stateChanged":
        this.#live = content.value.state === SubscriptionState.LIVE;
        return this.#deliver({ continuationToken: this.#token });
      case "closing":
        this.#ended = true;
        return this.#deliver(content.value);
      default:
        return undefined;
    }
  }

  #deliver(said: Said, children: readonly ChildPartition[] = []): Delivery {
    this.#move(said.continuationToken);
    const most = this.#request.maxEvents;
    this.#ended ||= most > 0n && this.#delivered >= most;
    return {
      events: said.events ?? [],
      continuationToken: said.continuationToken,
      live: this.#live,
      watermark: date(said.watermark),
      tokenExpireTime: date(said.tokenExpireTime),
      children,
      snapshot: said.snapshot,
      warnings: said.warnings ?? [],
    };
  }

  #move(token: string): void {
    this.#token = token;
    this.#request.startPosition = after(token);
  }

  #nextRequest(): SubscribeRequest {
    const request = clone(SubscribeRequestSchema, this.#request);
    if (request.maxEvents > 0n) {
      request.maxEvents -= this.#delivered;
    }
    return request;
  }

  async #recover(error: unknown): Promise<void> {
    if (error instanceof StreamInterrupted && error.heartbeatMissed) {
      // gRPC itself would use a dead connection again until a keepalive ping finds out.
      this.#leave();
      this.#connection = this.shared.redial();
    }
    const { onReconnect, signal } = this.options;
    await this.#outage.wait(error, (pause) => onReconnect?.(error, pause), signal);
  }

  #hangUp(): void {
    this.#live = false;
    this.#stream?.close();
    this.#stream = undefined;
  }

  #leave(): void {
    if (this.#connection !== this.shared) {
      this.#connection.leave();
    }
  }
}

/** What the messages with a token have in common. */
interface Said {
  readonly continuationToken: string;
  readonly events?: readonly ChangeEvent[];
  readonly watermark?: Parameters<typeof date>[0];
  readonly tokenExpireTime?: Parameters<typeof date>[0];
  readonly snapshot?: SnapshotProgress | undefined;
  readonly warnings?: readonly PortabilityWarning[];
}

function isFinal(reason: ClosingReason): boolean {
  return reason === ClosingReason.MAX_EVENTS || reason === ClosingReason.PARTITION_RETIRED;
}
