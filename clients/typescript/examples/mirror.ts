/**
 * Keeps a local copy of a collection, the items that are there and then every change:
 * node dist/examples/mirror.js main/documents mirror.json
 *
 * Stop it with Ctrl-C or a kill and start it again: the copy and the token are saved in one step, so it ends equal to the
 * source whatever happened in between. CHANGEFEED_TARGET names another gateway than 127.0.0.1:50051.
 */

import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { after, beginning, ChangeFeedError, collection, connect, formatItem, parseItem, snapshot } from "../src/index.js";
import { type ChangeEvent, ChangeType, ItemState, KeyType, type ResourceAddress, type StartPosition } from "../src/messages.js";

/** The local table. In a database the rows and the token are two tables, written in one transaction. */
interface Mirror {
  token: string;
  items: Record<string, unknown>;
}

function load(path: string): Mirror {
  return existsSync(path) ? (parseItem(readFileSync(path, "utf8")) as Mirror) : { token: "", items: {} };
}

/**
 * Names an item; null is no empty text. Where the database tells items apart by the type of a value, as Cosmos DB does 1
 * from "1", the name needs each component's `type` too.
 */
function nameOf(event: ChangeEvent): string {
  const components = event.key?.components ?? [];
  return JSON.stringify(components.map(({ type, value }) => (type === KeyType.NULL ? null : value)));
}

/** One change, idempotent, as delivery is at least once. */
function apply(mirror: Mirror, event: ChangeEvent): void {
  const key = nameOf(event);
  if (event.changeType === ChangeType.TRUNCATE) {
    mirror.items = {};
  } else if (event.changeType === ChangeType.DELETE || event.itemState === ItemState.NOT_APPLICABLE) {
    delete mirror.items[key];
  } else if (event.newItemJson) {
    mirror.items[key] = parseItem(event.newItemJson); // Every digit stays, where JSON.parse would round.
  } else {
    throw new Error(`${key} came without its item: ${ItemState[event.itemState] ?? event.itemState}`);
  }
}

function commit(mirror: Mirror, path: string, token: string): void {
  mirror.token = token;
  writeFileSync(`${path}.new`, formatItem(mirror));
  renameSync(`${path}.new`, path);
}

function onReconnect(error: unknown, pause: number): void {
  console.error(`${error}; again in ${Math.round(pause)} ms`);
}

/** A snapshot, where the collection has them; otherwise all changes that are retained. */
async function firstPosition(address: ResourceAddress): Promise<StartPosition> {
  const { capabilities } = await client.capabilities(address);
  const can = capabilities.some(({ name, supported }) => name === "CHANGE_FEED_SNAPSHOT" && supported);
  return can ? snapshot() : beginning();
}

const [path, file] = process.argv.slice(2);
if (!path || !file) {
  throw new Error("usage: mirror CONNECTION/COLLECTION FILE");
}
const client = connect(process.env["CHANGEFEED_TARGET"] ?? "127.0.0.1:50051");
try {
  const mirror = load(file);
  const start = mirror.token ? after(mirror.token) : await firstPosition(collection(path));
  for await (const delivery of client.tail(collection(path), start, { onReconnect })) {
    for (const event of delivery.events) {
      apply(mirror, event);
    }
    commit(mirror, file, delivery.continuationToken);
  }
} catch (error) {
  if (error instanceof ChangeFeedError && error.category === "CHECKPOINT_EXPIRED") {
    console.error("changes are lost to this mirror: remove its file to copy anew");
  }
  throw error;
} finally {
  client.close();
}
