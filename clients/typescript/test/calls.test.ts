import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { status as Code } from "@grpc/grpc-js";
import {
  beginning,
  type ChangeFeedClient,
  type ChangeFeedError,
  ClientClosed,
  collection,
  connect,
  MemoryCheckpoint,
  type PartitionsOptions,
} from "../src/index.js";
import { ClosingReason } from "../src/messages.js";
import { type Answers, gateway, type Gateway, type Said, until } from "./gateway.js";

const ADDRESS = collection("main/documents");
const OPENED: Said = { case: "opened", value: { continuationToken: "t0", warnings: [{ code: "W", message: "m" }] } };
const DRAINING: Said = { case: "closing", value: { continuationToken: "t1", reason: ClosingReason.DRAINING } };
const RETIRED: Said = { case: "partitionRetired", value: { continuationToken: "t2" } };
const END: Said = { case: "closing", value: { continuationToken: "t2", reason: ClosingReason.PARTITION_RETIRED } };
/** What is awaited here ends by itself too, after the deadline of a call. */
const SOON = { timeout: 10_000 };
const LISTED = { partitions: [{ partitionId: "a" }] };

async function served(t: TestContext, answers: Answers): Promise<Gateway & { client: ChangeFeedClient }> {
  const made = await gateway(t, answers);
  const client = connect(made.target);
  t.after(() => client.close());
  return { ...made, client };
}

/** Answers one after the other; the last one again and again. */
function inTurn<T>(...answers: T[]): () => T {
  return () => (answers.length > 1 ? answers.shift() : answers[0]) as T;
}

type Answer<Name extends keyof Answers> = ReturnType<NonNullable<Answers[Name]>>;

function read(
  client: ChangeFeedClient,
  options: Partial<PartitionsOptions>,
  handle?: (id: string) => Promise<void>,
): Promise<void> {
  const whole = { checkpoint: new MemoryCheckpoint(), ...options };
  return client.readPartitions(ADDRESS, beginning(), handle ?? (async () => undefined), whole);
}

test("what the gateway warns of is in the first delivery alone", async (t) => {
  const { client } = await served(t, { subscribe: inTurn([OPENED, DRAINING], [OPENED, RETIRED, END]) });
  const told: string[][] = [];
  for await (const { warnings } of client.tail(ADDRESS, beginning())) {
    told.push(warnings.map(({ code }) => code));
  }
  assert.deepEqual(told, [["W"], [], []]);
});

test("a reader of partitions waits for the end of an outage where it lists and fixes", async (t) => {
  const { client } = await served(t, {
    listPhysicalPartitions: inTurn<Answer<"listPhysicalPartitions">>(Code.DEADLINE_EXCEEDED, LISTED),
    resolveStartPosition: inTurn<Answer<"resolveStartPosition">>(Code.INTERNAL, { continuationToken: "t" }),
    subscribe: () => [OPENED, RETIRED, END],
  });
  const codes: unknown[] = [];
  await read(client, { onReconnect: (error) => codes.push((error as ChangeFeedError).code) });
  assert.deepEqual(codes, [Code.DEADLINE_EXCEEDED, Code.INTERNAL]);
});

test("a reader of partitions ends with its patience, and at once with what is final", async (t) => {
  const { client } = await served(t, {
    listPhysicalPartitions: () => Code.DEADLINE_EXCEEDED,
    resolveStartPosition: () => Code.NOT_FOUND,
  });
  await assert.rejects(read(client, { patience: 50 }), { code: Code.DEADLINE_EXCEEDED, retryable: true });
  const { client: other } = await served(t, { listPhysicalPartitions: () => LISTED, resolveStartPosition: () => Code.NOT_FOUND });
  await assert.rejects(read(other, { onReconnect: () => assert.fail("it waited") }), { code: Code.NOT_FOUND });
});

test("what fails in one partition ends the outage that another one waits for", SOON, async (t) => {
  const child = { partitionId: "c", continuationToken: "t", parentPartitionIds: ["a", "unknown"] };
  const retired: Said = { case: "partitionRetired", value: { continuationToken: "t2", childPartitions: [child] } };
  const both = { partitions: [{ partitionId: "a" }, { partitionId: "b" }] };
  const { client } = await served(t, {
    listPhysicalPartitions: inTurn<Answer<"listPhysicalPartitions">>(both, Code.DEADLINE_EXCEEDED),
    resolveStartPosition: () => ({ continuationToken: "t" }),
    subscribe: ({ scope }) => (scope?.scope.value === "a" ? [OPENED, retired, END] : [OPENED]),
  });
  let waits = () => {};
  const waiting = new Promise<void>((resolve) => (waits = resolve));
  const handle = async (id: string) => {
    if (id === "b") {
      await waiting;
      throw new RangeError("b");
    }
  };
  await assert.rejects(read(client, { onReconnect: () => waits() }, handle), RangeError);
});

test("an aborted signal ends a reader of partitions with its reason, wherever it is", SOON, async (t) => {
  const place = { continuationToken: "t" };
  const silent: Answers[] = [
    { listPhysicalPartitions: () => undefined },
    { listPhysicalPartitions: () => LISTED, resolveStartPosition: () => undefined },
    { listPhysicalPartitions: () => LISTED, resolveStartPosition: () => place, subscribe: () => [] },
  ];
  for (const answers of silent) {
    const { client, open } = await served(t, answers);
    const stop = new AbortController();
    const reading = read(client, { signal: stop.signal });
    await until(() => open.size === 1);
    const reason = new Error("enough");
    stop.abort(reason);
    await assert.rejects(reading, reason);
    await until(() => open.size === 0);
  }
});

test("an aborted signal ends a call and a tail with its reason", SOON, async (t) => {
  const { client, open } = await served(t, { subscribe: () => [OPENED], getCapabilities: () => undefined });
  const stop = new AbortController();
  const tail = client.tail(ADDRESS, beginning(), { signal: stop.signal });
  await tail.next();
  const waiting = tail.next();
  const call = client.capabilities(ADDRESS, stop.signal);
  await until(() => open.size === 2);
  stop.abort();
  for (const ended of [waiting, call, client.capabilities(ADDRESS, stop.signal)]) {
    await assert.rejects(ended, { name: "AbortError" });
  }
});

function isClosed(error: unknown): boolean {
  return error instanceof ClientClosed && !error.retryable;
}

test("a closed client ends what is under way, also what nobody waits for, and what comes later", SOON, async (t) => {
  const { client, open } = await served(t, {
    subscribe: () => [OPENED],
    getCapabilities: () => undefined,
    listPhysicalPartitions: () => LISTED,
    resolveStartPosition: () => ({ continuationToken: "t" }),
  });
  const [left, awaited] = [client.tail(ADDRESS, beginning()), client.tail(ADDRESS, beginning())];
  await left.next();
  await awaited.next();
  const calls = Array.from({ length: 12 }, () => client.capabilities(ADDRESS));
  const ended = [awaited.next(), read(client, {}), ...calls].map((result) => assert.rejects(result, isClosed));
  await until(() => open.size === 3 + calls.length);
  client.close();
  await until(() => open.size === 0);
  const later = [left.next(), client.capabilities(ADDRESS), client.tail(ADDRESS, beginning()).next(), read(client, {})];
  await Promise.all([...ended, ...later.map((result) => assert.rejects(result, isClosed))]);
});

test("a closed client waits for no outage", SOON, async () => {
  const tailed = (client: ChangeFeedClient, options: object) => client.tail(ADDRESS, beginning(), options).next();
  for (const wait of [tailed, read]) {
    const client = connect("127.0.0.1:1");
    await assert.rejects(wait(client, { onReconnect: () => client.close() }), ClientClosed);
  }
});

test("many calls at a time are no leak of listeners", async (t) => {
  const warned: Error[] = [];
  const keep = (warning: Error) => warned.push(warning);
  process.on("warning", keep);
  t.after(() => process.off("warning", keep));
  const { client } = await served(t, { getCapabilities: () => ({}) });
  await Promise.all(Array.from({ length: 20 }, () => client.capabilities(ADDRESS)));
  await sleep(0);
  assert.deepEqual(warned, []);
});
