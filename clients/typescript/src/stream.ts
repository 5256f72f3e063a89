/** One call of Subscribe, with its watchdog. */

import type { ClientReadableStream } from "@grpc/grpc-js";
import { type SubscribeResponse, SubscriptionState } from "../gen/changefeed/v1/subscribe_pb.js";
import { ChangeFeedError, StreamInterrupted } from "./errors.js";
import { milliseconds } from "./spans.js";

/** How long a stream may take to send its first message. */
const OPENING = 20_000;
const MISSED_HEARTBEATS = 2;
const LONGEST_TIMER = 2 ** 31 - 1;

export class SubscribeStream {
  #silence = OPENING;
  #sequence = 0n;
  readonly #messages: AsyncIterator<SubscribeResponse>;

  constructor(private readonly call: ClientReadableStream<SubscribeResponse>) {
    call.on("error", () => undefined); // Whoever reads next is told; nobody may be reading now.
    this.#messages = call[Symbol.asyncIterator]();
  }

  close(): void {
    this.call.cancel();
  }

  /** The next message. The watchdog runs only here: while the reader handles what came, silence is its own. */
  async read(signal: AbortSignal | undefined): Promise<SubscribeResponse> {
    let result: IteratorResult<SubscribeResponse>;
    try {
      result = await this.#within(this.#messages.next(), signal);
    } catch (error) {
      signal?.throwIfAborted();
      throw ChangeFeedError.of(error);
    }
    if (result.done) {
      throw new StreamInterrupted("the stream ended without saying why");
    }
    this.#check(result.value);
    return result.value;
  }

  async #within<T>(waiting: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    let timer: NodeJS.Timeout | undefined;
    let abort: (() => void) | undefined;
    const interrupted = new Promise<never>((_, reject) => {
      const missed = () => reject(new StreamInterrupted(`nothing arrived for ${this.#silence} ms`, 0, true));
      timer = setTimeout(missed, this.#silence);
      abort = () => reject(signal?.reason);
      signal?.addEventListener("abort", abort);
    });
    if (signal?.aborted) {
      abort?.();
    }
    waiting.catch(() => undefined); // What comes too late is nobody's.
    try {
      return await Promise.race([waiting, interrupted]);
    } finally {
      clearTimeout(timer);
      if (abort) {
        signal?.removeEventListener("abort", abort);
      }
    }
  }

  #check(message: SubscribeResponse): void {
    this.#sequence += 1n;
    if (message.deliverySequence !== this.#sequence) {
      // What is missing in between is asked for again.
      throw new StreamInterrupted(`message ${message.deliverySequence} came where ${this.#sequence} was due`);
    }
    if (message.content.case === "opened") {
      const silence = milliseconds(message.content.value.heartbeatInterval) * MISSED_HEARTBEATS;
      this.#silence = Math.min(silence, LONGEST_TIMER) || OPENING;
    }
  }
}

/** What every new stream says first. */
export function isPreamble({ content }: SubscribeResponse): boolean {
  return (
    content.case === "opened" || (content.case === "stateChanged" && content.value.state !== SubscriptionState.LIVE)
  );
}
