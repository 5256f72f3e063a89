import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { create, type DescMessage, type MessageShape } from "@bufbuild/protobuf";
import { anyPack } from "@bufbuild/protobuf/wkt";
import { status as Code } from "@grpc/grpc-js";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "../gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "../gen/google/rpc/status_pb.js";
import {
  ChangeFeedError,
  type Checkpoint,
  collection,
  connect,
  FileCheckpoint,
  MemoryCheckpoint,
  parseItem,
  StreamInterrupted,
} from "../src/index.js";
import { ChangeEventSchema } from "../src/messages.js";
import { Outage } from "../src/outage.js";
import { Seen } from "../src/seen.js";
import { milliseconds } from "../src/spans.js";

function status(code: number, ...details: [DescMessage, MessageShape<DescMessage>][]) {
  return create(StatusSchema, { code, message: "m", details: details.map(([schema, message]) => anyPack(schema, message)) });
}

function file(content?: string): string {
  const path = join(mkdtempSync(join(tmpdir(), "changefeed-")), "positions.json");
  if (content !== undefined) {
    writeFileSync(path, content);
  }
  return path;
}

test("an error is decoded whole", () => {
  const metadata = { category: "INVALID_REQUEST", retryable: "false", provider: "memory", request_id: "r", more: "x" };
  const error = new ChangeFeedError(
    status(
      Code.INVALID_ARGUMENT,
      [ErrorInfoSchema, create(ErrorInfoSchema, { reason: "FIELD_INVALID", metadata })],
      [RetryInfoSchema, create(RetryInfoSchema, { retryDelay: { seconds: 1n } })],
      [BadRequestSchema, create(BadRequestSchema, { fieldViolations: [{ field: "a", description: "b" }] })],
    ),
  );
  const { category, reason, retryable, retryAfter, provider, requestId, violations } = error;
  assert.deepEqual([category, reason, retryable, retryAfter], ["INVALID_REQUEST", "FIELD_INVALID", false, 1_000]);
  assert.deepEqual([provider, requestId, error.metadata, violations], ["memory", "r", { more: "x" }, [{ field: "a", description: "b" }]]);
});

test("an error without details is judged by its code", () => {
  const judged = (code: number) => {
    const { category, retryable } = new ChangeFeedError(status(code));
    return [category, retryable];
  };
  for (const code of [Code.UNAVAILABLE, Code.CANCELLED, Code.INTERNAL, Code.DEADLINE_EXCEEDED]) {
    assert.deepEqual(judged(code), ["TRANSIENT_FAILURE", true]);
  }
  assert.deepEqual(judged(Code.UNAUTHENTICATED), ["AUTHENTICATION_FAILED", false]);
  assert.deepEqual(judged(99), ["PROVIDER_ERROR", false]);
  const broken = status(Code.UNAVAILABLE);
  broken.details.push({
    $typeName: "google.protobuf.Any",
    typeUrl: "type.googleapis.com/google.rpc.ErrorInfo",
    value: new Uint8Array([255, 255]),
  });
  assert.ok(new ChangeFeedError(broken).retryable);
});

test("an outage ends with what is final, with its patience, and with its signal", async () => {
  const final = new ChangeFeedError(status(Code.OUT_OF_RANGE));
  const long = new StreamInterrupted("m", 3_600_000);
  const told = () => assert.fail("it waited");
  await assert.rejects(new Outage(Number.POSITIVE_INFINITY).wait(final, told, undefined), final);
  await assert.rejects(new Outage(60_000).wait(long, told, undefined), long);
  const stop = new AbortController();
  const reason = new Error("enough");
  await assert.rejects(new Outage(Number.POSITIVE_INFINITY).wait(long, () => stop.abort(reason), stop.signal), reason);
});

test("a pause is never shorter than asked", async () => {
  let pause = 0;
  const began = performance.now();
  await new Outage(60_000).wait(new StreamInterrupted("m", 20), (length) => (pause = length), undefined);
  assert.ok(pause >= 20 && pause <= 100, `${pause}`);
  assert.ok(performance.now() - began >= 19);
});

test("lengths of time that are none do no harm", () => {
  const of = (seconds: bigint) => milliseconds({ $typeName: "google.protobuf.Duration", seconds, nanos: 0 });
  assert.deepEqual([of(-5n), of(-(2n ** 62n)), of(2n ** 62n)], [0, 0, 2 ** 31 - 1]);
});

test("checkpoints change some positions", async () => {
  const path = file();
  const checkpoints: Checkpoint[] = [new MemoryCheckpoint(), new FileCheckpoint(path)];
  for (const checkpoint of checkpoints) {
    await Promise.all([
      checkpoint.save(new Map([["a", "1"], ["b", "2"]])),
      checkpoint.save(new Map([["a", ""], ["c", "3"]])),
    ]);
    assert.deepEqual(Object.fromEntries(await checkpoint.load()), { b: "2", c: "3" });
  }
  assert.deepEqual(Object.fromEntries(await new FileCheckpoint(path).load()), { b: "2", c: "3" });
});

test("a damaged file is no missing one", async () => {
  for (const content of ["", "[]", '{"*": 1}', "null"]) {
    const path = file(content);
    const checkpoint = new FileCheckpoint(path);
    await assert.rejects(checkpoint.load(), /holds no positions/);
    await assert.rejects(checkpoint.save(new Map([["*", "t"]])), /holds no positions/);
    assert.equal(readFileSync(path, "utf8"), content);
  }
});

test("a checkpoint is never written through a link of somebody else", async () => {
  const [precious, path] = [file("precious"), file()];
  symlinkSync(precious, `${path}.new`);
  await new FileCheckpoint(path).save(new Map([["*", "t"]]));
  assert.equal(readFileSync(precious, "utf8"), "precious");
});

test("the window forgets the oldest", () => {
  const seen = new Seen(2);
  const fresh = (...ids: string[]) => seen.fresh(ids.map((eventId) => create(ChangeEventSchema, { eventId }))).length;
  assert.deepEqual([fresh("a", "b", "a"), fresh("b", "c"), fresh("a", "c")], [2, 1, 1]);
});

test("a bearer token needs TLS", () => {
  assert.throws(() => connect("127.0.0.1:1", { bearer: () => "t" }), TypeError);
});

test("numbers become what the reader says", () => {
  assert.deepEqual(parseItem('{"n":9007199254740993}', BigInt), { n: 9007199254740993n });
  assert.throws(() => parseItem("1 2"), SyntaxError);
});

test("of a key that comes again the last value counts", () => {
  assert.deepEqual(parseItem('{"a":1,"b":{"c":1,"c":2},"a":[3]}', Number), { a: [3], b: { c: 2 } });
});

test("collections have two names", () => {
  for (const path of ["", "main", "main/", "/documents"]) {
    assert.throws(() => collection(path), RangeError);
  }
});
