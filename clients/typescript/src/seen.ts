import type { ChangeEvent } from "../gen/changefeed/v1/change_event_pb.js";

/** The ids of the last changes: redelivered ones follow a reconnect, so a window is enough. */
export class Seen {
  readonly #known = new Set<string>();

  constructor(private readonly size: number) {}

  /** What was not delivered before, in the same order. */
  fresh(events: readonly ChangeEvent[]): readonly ChangeEvent[] {
    return this.size > 0 ? events.filter((event) => this.#isNew(event.eventId)) : events;
  }

  #isNew(id: string): boolean {
    if (this.#known.has(id)) {
      return false;
    }
    for (const oldest of this.#known.size >= this.size ? this.#known : []) {
      this.#known.delete(oldest); // A Set gives the oldest first.
      break;
    }
    this.#known.add(id);
    return true;
  }
}
