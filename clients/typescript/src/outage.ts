/** When to try again, and when not. All times are milliseconds. */

import { setTimeout as sleep } from "node:timers/promises";
import { isRetryable } from "./errors.js";

const FIRST_PAUSE = 100;
const LONGEST_PAUSE = 15_000;
/** Nobody who asks for a day can mean it of a stream. */
const LONGEST_ASKED = 600_000;
/** Part that is added at random to a pause the gateway asks for, so that clients do not return all at once. */
const JITTER = 0.2;

/** How an outage is waited for. */
export interface Waiting {
  /** Bounds it, from its first failure on; without it there is always another try. */
  readonly patience?: number;
  /** Told of every failure and of the pause before the next try. */
  readonly onReconnect?: (error: unknown, pause: number) => void;
  /** Ends it from outside. */
  readonly signal?: AbortSignal;
}

/** Repeats a call until it succeeds. Throws the error that is final, or the one that outlasted patience. */
export async function patiently<T>(call: () => Promise<T>, { patience, onReconnect, signal }: Waiting): Promise<T> {
  const outage = new Outage(patience ?? Number.POSITIVE_INFINITY);
  for (;;) {
    try {
      return await call();
    } catch (error) {
      await outage.wait(error, (pause) => onReconnect?.(error, pause), signal);
    }
  }
}

/** Begins with the first failure: the time that a healthy stream had nothing to say before it is no part of it. */
export class Outage {
  #began = 0;
  #attempts = 0;

  constructor(private readonly patience: number) {}

  /** What came is progress. */
  end(): void {
    this.#attempts = 0;
  }

  /** Pauses before the next try. Throws the error when it is final or there will be no other try. */
  async wait(error: unknown, announce: (pause: number) => void, signal: AbortSignal | undefined): Promise<void> {
    signal?.throwIfAborted();
    if (!isRetryable(error)) {
      throw error;
    }
    const now = performance.now();
    this.#began = this.#attempts === 0 ? now : this.#began;
    this.#attempts += 1;
    const asked = Math.min(error.retryAfter, LONGEST_ASKED);
    const left = this.#began + this.patience - now;
    if (left <= 0 || asked > left) {
      throw error;
    }
    const pause = this.#pause(asked, left);
    announce(pause);
    await sleep(pause, undefined, signal ? { signal } : {}).catch(() => signal?.throwIfAborted());
  }

  /** Grows from try to try and is never shorter than asked; patience bounds it, so that the last try is at its end. */
  #pause(asked: number, left: number): number {
    const ceiling = Math.min(FIRST_PAUSE * 2 ** (this.#attempts - 1), LONGEST_PAUSE);
    const pause = Math.max(Math.random() * ceiling, asked * (1 + Math.random() * JITTER));
    return Math.min(pause, Math.max(asked, left));
  }
}
