/** What the gateway's errors say, decoded from `google.rpc.Status`. */

import { fromBinary } from "@bufbuild/protobuf";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import { Metadata, type ServiceError, status as Code } from "@grpc/grpc-js";
import { BadRequestSchema, type ErrorInfo, ErrorInfoSchema, RetryInfoSchema } from "../gen/google/rpc/error_details_pb.js";
import { type Status, StatusSchema } from "../gen/google/rpc/status_pb.js";
import { milliseconds } from "./spans.js";

/** The portable kinds of failure, for branching; accept others. */
export type Category =
  | "INVALID_REQUEST"
  | "CHECKPOINT_EXPIRED"
  | "UNSUPPORTED_CAPABILITY"
  | "NOT_FOUND"
  | "AUTHENTICATION_FAILED"
  | "AUTHORIZATION_FAILED"
  | "THROTTLED"
  | "TRANSIENT_FAILURE"
  | "PROVIDER_ERROR"
  | "INTERNAL"
  | (string & {});

/** Categories of what the way to the gateway answers: proxies and connections send no details. */
const CATEGORY_WITHOUT_DETAILS: Readonly<Record<number, Category>> = {
  [Code.UNAVAILABLE]: "TRANSIENT_FAILURE",
  [Code.DEADLINE_EXCEEDED]: "TRANSIENT_FAILURE",
  [Code.CANCELLED]: "TRANSIENT_FAILURE",
  [Code.INTERNAL]: "TRANSIENT_FAILURE",
  [Code.UNAUTHENTICATED]: "AUTHENTICATION_FAILED",
  [Code.PERMISSION_DENIED]: "AUTHORIZATION_FAILED",
  [Code.INVALID_ARGUMENT]: "INVALID_REQUEST",
};

/** Codes of cut connections, of streams that a proxy reset and of silence; reading again is always safe. */
const LOST_ON_THE_WAY: ReadonlySet<number> = new Set([Code.UNAVAILABLE, Code.CANCELLED, Code.INTERNAL, Code.DEADLINE_EXCEEDED]);

/** One field of a request that was refused. */
export interface FieldViolation {
  readonly field: string;
  readonly description: string;
}

/** A call failed. `category` is for branching, `reason` for telling cases apart, `message` for people. */
export class ChangeFeedError extends Error {
  override readonly name = "ChangeFeedError";
  readonly code: Code;
  readonly category: Category;
  /** What exactly went wrong, such as TOKEN_SIGNATURE; empty when the gateway did not answer. */
  readonly reason: string;
  /**
   * Whether the same call may succeed soon. It is false for PROVIDER_AUTHENTICATION_FAILED and
   * PROVIDER_AUTHORIZATION_FAILED, although their code is UNAVAILABLE: they pass when an operator has acted.
   */
  readonly retryable: boolean;
  /** Milliseconds that the gateway asks to wait first. */
  readonly retryAfter: number;
  /** The kind of the database, where the gateway says so. */
  readonly provider: string;
  /** Finds the call in the gateway's logs. */
  readonly requestId: string;
  /** Everything else the gateway says about the failure. */
  readonly metadata: Readonly<Record<string, string>>;
  readonly violations: readonly FieldViolation[];

  /** Decodes a status, such as `InspectContinuationTokenResponse.problem`. */
  constructor(said: Status) {
    const code: Code = Code[said.code] === undefined ? Code.UNKNOWN : said.code;
    const { info, retryAfter, violations } = details(said);
    const { category, retryable, provider, request_id: requestId, ...metadata } = info?.metadata ?? {};
    super(`${info?.reason || Code[code]}: ${said.message}${requestId ? ` [request ${requestId}]` : ""}`);
    this.code = code;
    this.category = category || CATEGORY_WITHOUT_DETAILS[code] || "PROVIDER_ERROR";
    this.reason = info?.reason ?? "";
    this.retryable = info ? retryable === "true" : LOST_ON_THE_WAY.has(code);
    this.retryAfter = retryAfter;
    this.provider = provider ?? "";
    this.requestId = requestId ?? "";
    this.metadata = metadata;
    this.violations = violations;
  }

  /** Decodes what a call threw; what is no error of gRPC is returned as it is. */
  static of(thrown: unknown): unknown {
    return isServiceError(thrown) ? new ChangeFeedError(statusOf(thrown)) : thrown;
  }
}

/**
 * A stream broke without an error of the gateway: silence, an end without farewell, a message that cannot be, or a
 * farewell. The tail opens it again, so it is seen only when patience ends.
 */
export class StreamInterrupted extends Error {
  override readonly name = "StreamInterrupted";

  constructor(
    message: string,
    /** Milliseconds that the gateway asks to wait first. */
    readonly retryAfter = 0,
    /** Whether nothing arrived for two heartbeat intervals: the connection is dead, whatever it says. */
    readonly heartbeatMissed = false,
  ) {
    super(message);
  }
}

/** The client was closed: what was under way ends with it, and so does every later call. */
export class ClientClosed extends Error {
  override readonly name = "ClientClosed";
  /** A closed client stays closed. */
  readonly retryable = false;

  constructor() {
    super("the client was closed");
  }
}

/** Whether the same call may succeed later; CHECKPOINT_EXPIRED, for one, is final. */
export function isRetryable(error: unknown): error is ChangeFeedError | StreamInterrupted {
  return error instanceof StreamInterrupted || (error instanceof ChangeFeedError && error.retryable);
}

function isServiceError(thrown: unknown): thrown is ServiceError {
  return thrown instanceof Error && "code" in thrown && typeof thrown.code === "number" && "details" in thrown;
}

function statusOf(error: ServiceError): Status {
  const said = { $typeName: "google.rpc.Status", code: error.code, message: error.details, details: [] } as Status;
  const [packed] = error.metadata instanceof Metadata ? error.metadata.get("grpc-status-details-bin") : [];
  try {
    return packed instanceof Buffer ? fromBinary(StatusSchema, packed) : said;
  } catch {
    return said; // What is no status comes from somebody on the way, and the code says enough.
  }
}

function details(said: Status) {
  let info: ErrorInfo | undefined;
  let retryAfter = 0;
  const violations: FieldViolation[] = [];
  for (const packed of said.details) {
    try {
      const found = anyUnpack(packed, ErrorInfoSchema);
      info = found?.reason ? found : info;
      retryAfter = milliseconds(anyUnpack(packed, RetryInfoSchema)?.retryDelay) || retryAfter;
      for (const { field, description } of anyUnpack(packed, BadRequestSchema)?.fieldViolations ?? []) {
        violations.push({ field, description });
      }
    } catch {
      // The same of a detail.
    }
  }
  return { info, retryAfter, violations };
}
