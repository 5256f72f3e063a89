import { create } from "@bufbuild/protobuf";
import { type Duration, DurationSchema, type Timestamp, timestampDate } from "@bufbuild/protobuf/wkt";

/** The longest that a timer can wait. */
const LONGEST = 2 ** 31 - 1;

/** A length of time as it can be waited for: a negative one is none, one beyond what timers know is their end. */
export function milliseconds(duration: Duration | undefined): number {
  const length = Number(duration?.seconds ?? 0n) * 1_000 + (duration?.nanos ?? 0) / 1_000_000;
  return Math.min(Math.max(length, 0), LONGEST);
}

export function duration(length: number | undefined): Duration | undefined {
  if (length === undefined) {
    return undefined;
  }
  const seconds = Math.trunc(length / 1_000);
  const nanos = Math.round((length - seconds * 1_000) * 1_000_000);
  return create(DurationSchema, { seconds: BigInt(seconds), nanos });
}

export function date(timestamp: Timestamp | undefined): Date | undefined {
  return timestamp && timestampDate(timestamp);
}
