/** The TypeScript client's program for the conformance run: see docs/clients.md in the repository. */

import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import {
  after,
  beginning,
  ChangeFeedError,
  type ChangeFeedClient,
  collection,
  connect,
  type Delivery,
  FileCheckpoint,
  formatItem,
  MemoryCheckpoint,
  now,
  parseItem,
  snapshot,
  StreamInterrupted,
} from "../src/index.js";

interface Order {
  target: string;
  collection: string;
  call: "tail" | "partitions" | "page" | "drain";
  start: "beginning" | "now" | "snapshot" | "after";
  after?: string;
  checkpoint?: string;
  only?: string[];
  handle_ms?: number;
  heartbeat_ms?: number;
  patience_ms?: number;
  max_events?: number;
  max_batch_size?: number;
  deduplicate?: number;
  roots?: string;
  bearer?: string;
}

function say(what: string, content: unknown): void {
  process.stdout.write(`${JSON.stringify({ [what]: content })}\n`);
}

type Told = Pick<Delivery, "events" | "continuationToken" | "live" | "snapshot" | "warnings">;

async function handle(order: Order, partition: string, delivery: Told) {
  const events = delivery.events.map((event) => ({
    id: event.eventId,
    type: event.changeType,
    state: event.itemState,
    partition_key: event.key?.partitionKey ?? "",
    key: event.key?.components.map((component) => component.value) ?? [],
    // Parsed and written again: it must still have every digit.
    item: event.newItemJson ? formatItem(parseItem(event.newItemJson)) : null,
  }));
  const { continuationToken: token, live, snapshot: progress } = delivery;
  const warnings = delivery.warnings.map((warning) => warning.code);
  const told = progress ? { items: Number(progress.items), finished: progress.finished } : null;
  say("delivery", { token, live, partition, snapshot: told, warnings, events });
  if (events.length > 0) {
    await sleep(order.handle_ms ?? 0);
  }
}

async function carryOut(order: Order, client: ChangeFeedClient): Promise<void> {
  const address = collection(order.collection);
  const start = { beginning, now, snapshot, after: () => after(order.after ?? "") }[order.start]();
  const options = {
    onReconnect: (error: unknown, pause: number) => say("reconnect", { message: String(error), pause_ms: pause }),
    ...(order.heartbeat_ms && { heartbeatInterval: order.heartbeat_ms }),
    ...(order.patience_ms !== undefined && { patience: order.patience_ms }),
    ...(order.deduplicate && { deduplicate: order.deduplicate }),
    ...(order.max_batch_size && { maxBatchSize: order.max_batch_size }),
  };
  const checkpoint = order.checkpoint ? new FileCheckpoint(order.checkpoint) : undefined;
  if (order.call === "page") {
    const page = await client.readPage({ address, startPosition: start });
    await handle(order, "", { ...page, snapshot: page.snapshot, live: false });
  } else if (order.call === "drain") {
    const began = performance.now();
    let events = 0;
    for await (const delivery of client.tail(address, start, { maxEvents: order.max_events ?? 0 })) {
      events += delivery.events.length;
    }
    say("drained", { events, seconds: (performance.now() - began) / 1_000 });
  } else if (order.call === "partitions") {
    const told = (id: string, delivery: Delivery) => handle(order, id, delivery);
    const some = { ...options, only: order.only ?? [], checkpoint: checkpoint ?? new MemoryCheckpoint() };
    await client.readPartitions(address, start, told, some);
  } else {
    const whole = { ...options, maxEvents: order.max_events ?? 0, ...(checkpoint && { checkpoint }) };
    for await (const delivery of client.tail(address, start, whole)) {
      await handle(order, "", delivery);
    }
  }
}

async function run(order: Order): Promise<void> {
  const { bearer } = order;
  const client = connect(order.target, {
    ...(order.roots && { tls: { roots: readFileSync(order.roots) } }),
    ...(bearer && { bearer: () => bearer }),
  });
  try {
    await carryOut(order, client);
    say("end", true);
  } catch (error) {
    if (error instanceof ChangeFeedError) {
      const { category, reason, retryable, provider, requestId } = error;
      say("error", { category, reason, retryable, provider, request_id: requestId });
    } else if (error instanceof StreamInterrupted) {
      say("error", { category: "INTERRUPTED", reason: error.message, retryable: true });
    } else {
      throw error;
    }
  } finally {
    client.close();
  }
}

for (const argument of process.argv.slice(2)) {
  await run(JSON.parse(argument));
}
