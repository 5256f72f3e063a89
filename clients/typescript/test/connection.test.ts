import assert from "node:assert/strict";
import { type AddressInfo, createServer, type Socket } from "node:net";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import {
  type CallCredentials,
  type CallOptions,
  Client,
  connectivityState,
  credentials,
  Metadata,
  type ServiceError,
  status as Code,
} from "@grpc/grpc-js";
import { ChangeFeedError } from "../src/index.js";
import { bearerCredentials } from "../src/bearer.js";
import { bounded } from "../src/opening.js";
import { gateway, until } from "./gateway.js";

/** What a call that no gateway has ends with. */
function called(client: Client, options: CallOptions): Promise<ServiceError | null> {
  const same = (bytes: Buffer) => bytes;
  return new Promise((resolve) => {
    client.makeUnaryRequest("/a/b", same, same, Buffer.alloc(0), new Metadata(), options, resolve);
  });
}

/** The same with a token; without TLS, which gRPC asks for of a whole channel only. */
async function failure(target: string, calls: CallCredentials): Promise<ChangeFeedError> {
  const client = new Client(target, credentials.createInsecure());
  const error = await called(client, { credentials: calls });
  client.close();
  return ChangeFeedError.of(error) as ChangeFeedError;
}

test("a token that is none is an outage, and not shown", async (t) => {
  const { target } = await gateway(t, {});
  for (const text of ["secret\n", "secret\0", "se cret", "sécret", "", undefined as unknown as string]) {
    const { category, retryable, message, stack } = await failure(target, bearerCredentials(() => text));
    assert.deepEqual([category, retryable], ["TRANSIENT_FAILURE", true]);
    assert.match(message, /that is no token: it is empty, or holds more than visible ASCII$/);
    assert.doesNotMatch(`${stack}`, /cret/);
  }
  assert.equal((await failure(target, bearerCredentials(() => "Aa0-._~+/=!"))).code, Code.UNIMPLEMENTED);
});

test("a source of tokens that fails is an outage", async (t) => {
  const { target } = await gateway(t, {});
  const missing = Object.assign(new Error("no file"), { code: "ENOENT" });
  const final = Object.assign(new Error("no such tenant"), { code: Code.NOT_FOUND });
  const sources = [() => Promise.reject(missing), () => Promise.reject("text"), (): never => { throw final; }];
  for (const source of sources) {
    const { code, category, retryable } = await failure(target, bearerCredentials(source));
    assert.deepEqual([code, category, retryable], [Code.UNAVAILABLE, "TRANSIENT_FAILURE", true]);
  }
});

test("a peer that accepts and says nothing keeps no call waiting", async (t) => {
  const sockets = new Set<Socket>();
  const silent = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => undefined).on("close", () => sockets.delete(socket)).resume();
  });
  await new Promise<void>((resolve) => silent.listen(0, "127.0.0.1", resolve));
  t.after(() => silent.close());
  const target = `127.0.0.1:${(silent.address() as AddressInfo).port}`;
  for (const kind of [credentials.createInsecure(), credentials.createSsl()]) {
    const client = new Client(target, bounded(kind, 50), { "grpc.initial_reconnect_backoff_ms": 60_000 });
    const error = await called(client, { deadline: Date.now() + 5_000 });
    assert.equal(error?.code, Code.UNAVAILABLE);
    await until(() => sockets.size === 0);
    client.close();
  }
});

test("a connection that is opened outlives the bound", async (t) => {
  const { target } = await gateway(t, {});
  const client = new Client(target, bounded(credentials.createInsecure(), 50));
  t.after(() => client.close());
  await promisify(client.waitForReady).call(client, Date.now() + 5_000);
  await sleep(100);
  assert.equal(client.getChannel().getConnectivityState(false), connectivityState.READY);
});
