/** The way to the gateway: one channel, and messages as the generated code knows them. */

import { setMaxListeners } from "node:events";
import { type DescMessage, type DescMethodServerStreaming, type DescMethodUnary, fromBinary, type MessageShape, toBinary } from "@bufbuild/protobuf";
import {
  type ChannelCredentials,
  type ChannelOptions,
  Client,
  type ClientReadableStream,
  type ClientUnaryCall,
  credentials as grpcCredentials,
  Metadata,
} from "@grpc/grpc-js";
import { ChangeFeedService } from "../gen/changefeed/v1/change_feed_service_pb.js";
import type { SubscribeRequest, SubscribeResponse } from "../gen/changefeed/v1/subscribe_pb.js";
import { type BearerSource, bearerCredentials } from "./bearer.js";
import { ChangeFeedError, ClientClosed } from "./errors.js";
import { bounded } from "./opening.js";

const UNARY = ["ReadChanges", "ListPhysicalPartitions", "GetCapabilities", "ResolveStartPosition", "InspectContinuationToken"];

/** Retries of unary calls inside gRPC. A stream is not retried there: resuming needs its last token. */
const SERVICE_CONFIG = JSON.stringify({
  methodConfig: [
    {
      name: UNARY.map((method) => ({ service: ChangeFeedService.typeName, method })),
      retryPolicy: {
        maxAttempts: 4,
        initialBackoff: "0.1s",
        maxBackoff: "2s",
        backoffMultiplier: 2,
        retryableStatusCodes: ["UNAVAILABLE"],
      },
    },
  ],
});

const OPTIONS: ChannelOptions = {
  "grpc.service_config": SERVICE_CONFIG,
  // Data of an idle stream are its heartbeats; a ping finds a dead peer while calls are open.
  "grpc.keepalive_time_ms": 30_000,
  "grpc.keepalive_timeout_ms": 10_000,
  // gRPC's own pause before it connects again grows to two minutes, longer than any restart.
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 2_000,
  // A new channel is a new connection, so that a tail can leave a dead one.
  "grpc.use_local_subchannel_pool": 1,
};

/** PEM texts; without roots the system's are trusted, key and certificate identify the client (mTLS). */
export interface Tls {
  readonly roots?: Buffer;
  readonly key?: Buffer;
  readonly certificate?: Buffer;
}

export interface ConnectOptions {
  /** Encrypts; `{}` trusts the system's roots. Without it the connection is in plaintext. */
  readonly tls?: Tls;
  /**
   * Asked for the token of every call and every stream, so that it may be renewed. It needs TLS. What it throws, and a
   * text that can be no token (empty, or more than visible ASCII), is an outage: UNAVAILABLE, which a tail waits out.
   */
  readonly bearer?: BearerSource;
  /** Options of gRPC's own. */
  readonly channel?: ChannelOptions;
}

export class Connection {
  readonly #client: Client;

  constructor(
    private readonly target: string,
    private readonly options: ConnectOptions,
    private readonly closing = new AbortController(),
  ) {
    setMaxListeners(0, closing.signal); // One for every call under way, however many: Node would warn of more than ten.
    this.#client = new Client(target, bounded(channelCredentials(options)), { ...OPTIONS, ...options.channel });
  }

  /** Aborted when the client is closed, with the error that says so. */
  get closed(): AbortSignal {
    return this.closing.signal;
  }

  /** A new one to the same gateway, which ends with the same client. */
  redial(): Connection {
    return new Connection(this.target, this.options, this.closing);
  }

  /** Ends all that is under way, here and where it was dialled anew, and all that comes later. */
  close(): void {
    this.closing.abort(new ClientClosed());
    this.leave();
  }

  /** Lets this one go; the client's others stay. */
  leave(): void {
    this.#client.close();
  }

  call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageShape<I>,
    longest: number,
    signal?: AbortSignal,
  ): Promise<MessageShape<O>> {
    const endings = signal ? [signal, this.closed] : [this.closed];
    return new Promise((resolve, reject) => {
      for (const ending of endings) {
        ending.throwIfAborted();
      }
      const answered = (error: Error | null, answer?: MessageShape<O>) => {
        if (!error && answer) {
          resolve(answer);
        } else {
          const ending = endings.find(({ aborted }) => aborted);
          reject(ending ? ending.reason : ChangeFeedError.of(error));
        }
      };
      const deadline = new Date(Date.now() + longest);
      const of = [path(method), ...codecs(method), request, new Metadata(), { deadline }] as const;
      cancelWith(endings, this.#client.makeUnaryRequest(...of, answered));
    });
  }

  subscribe(request: SubscribeRequest, signal: AbortSignal = this.closed): ClientReadableStream<SubscribeResponse> {
    this.closed.throwIfAborted();
    const method = ChangeFeedService.method.subscribe;
    const stream = this.#client.makeServerStreamRequest(path(method), ...codecs(method), request);
    cancelWith([signal], stream);
    return stream;
  }
}

/** Cancels a call when one of some signals says so, also one whose answer nobody waits for; closing a channel of gRPC lets it go on. */
function cancelWith(signals: AbortSignal[], call: ClientUnaryCall | ClientReadableStream<SubscribeResponse>): void {
  const cancel = () => call.cancel();
  for (const signal of signals) {
    signal.addEventListener("abort", cancel);
    call.once("status", () => signal.removeEventListener("abort", cancel));
  }
}

function channelCredentials({ tls, bearer }: ConnectOptions): ChannelCredentials {
  if (!tls) {
    if (bearer) {
      throw new TypeError("a bearer token is sent over TLS only: say `tls`");
    }
    return grpcCredentials.createInsecure();
  }
  const encrypted = grpcCredentials.createSsl(tls.roots, tls.key, tls.certificate);
  if (!bearer) {
    return encrypted;
  }
  return grpcCredentials.combineChannelCredentials(encrypted, bearerCredentials(bearer));
}

type Method<I extends DescMessage, O extends DescMessage> = DescMethodUnary<I, O> | DescMethodServerStreaming<I, O>;

function path<I extends DescMessage, O extends DescMessage>(method: Method<I, O>): string {
  return `/${method.parent.typeName}/${method.name}`;
}

function codecs<I extends DescMessage, O extends DescMessage>({ input, output }: Method<I, O>) {
  return [
    (message: MessageShape<I>) => Buffer.from(toBinary(input, message)),
    (bytes: Buffer) => fromBinary(output, bytes),
  ] as const;
}
