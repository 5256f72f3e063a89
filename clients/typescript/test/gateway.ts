/** A gateway in this process, which answers what a test says. */

import assert from "node:assert/strict";
import type { EventEmitter } from "node:events";
import type { TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { create, type DescMessage, fromBinary, type MessageInitShape, type MessageShape, toBinary } from "@bufbuild/protobuf";
import {
  type sendUnaryData,
  Server,
  ServerCredentials,
  type ServerUnaryCall,
  type ServerWritableStream,
  type status as Code,
} from "@grpc/grpc-js";
import { ChangeFeedService, type SubscribeRequest, type SubscribeResponseSchema } from "../src/messages.js";

const { method: METHOD } = ChangeFeedService;
type Methods = typeof METHOD;

/** A message or a code for each call, and messages for each stream, which stays open; without them the call waits. */
export type Answers = {
  [Name in Exclude<keyof Methods, "subscribe">]?: (
    request: MessageShape<Methods[Name]["input"]>,
  ) => MessageInitShape<Methods[Name]["output"]> | Code | undefined;
} & { subscribe?: (request: SubscribeRequest) => Said[] };

export type Said = MessageInitShape<typeof SubscribeResponseSchema>["content"];

export interface Gateway {
  readonly target: string;
  /** Streams, and calls without an answer, that are under way. */
  readonly open: Set<unknown>;
}

export async function until(condition: () => boolean): Promise<void> {
  for (let tries = 0; !condition(); tries += 1) {
    assert.ok(tries < 1_000, "it never came");
    await sleep(5);
  }
}

export async function gateway(t: TestContext, answers: Answers): Promise<Gateway> {
  const server = new Server();
  const open = new Set<unknown>();
  server.addService(definition(), {
    ...Object.fromEntries(Object.entries(answers).map(([name, answer]) => [name, answering(name, answer as Answer, open)])),
    subscribe: (call: ServerWritableStream<SubscribeRequest, unknown>) => {
      track(call, open);
      for (const [index, content] of (answers.subscribe?.(call.request) ?? []).entries()) {
        call.write(create(METHOD.subscribe.output, { deliverySequence: BigInt(index + 1), content: content! }));
      }
    },
  });
  const port = await new Promise<number>((resolve, reject) => {
    const bound = (error: Error | null, given: number) => (error ? reject(error) : resolve(given));
    server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), bound);
  });
  t.after(() => server.forceShutdown());
  return { target: `127.0.0.1:${port}`, open };
}

type Answer = (request: unknown) => MessageInitShape<DescMessage> | Code | undefined;

function answering(name: string, answer: Answer, open: Set<unknown>) {
  return (call: ServerUnaryCall<unknown, unknown>, done: sendUnaryData<unknown>) => {
    const said = answer(call.request);
    if (typeof said === "number") {
      done({ code: said, details: "the test says so" });
    } else if (said) {
      done(null, create(METHOD[name as keyof Methods].output as DescMessage, said));
    } else {
      track(call, open);
    }
  };
}

function track(call: EventEmitter, open: Set<unknown>): void {
  open.add(call);
  call.on("cancelled", () => open.delete(call));
}

function definition() {
  const methods = ChangeFeedService.methods.map(({ name, localName, methodKind, input, output }) => ({
    [localName]: {
      path: `/${ChangeFeedService.typeName}/${name}`,
      requestStream: false,
      responseStream: methodKind === "server_streaming",
      requestSerialize: (message: MessageShape<DescMessage>) => Buffer.from(toBinary(input, message)),
      requestDeserialize: (bytes: Buffer) => fromBinary(input, bytes),
      responseSerialize: (message: MessageShape<DescMessage>) => Buffer.from(toBinary(output, message)),
      responseDeserialize: (bytes: Buffer) => fromBinary(output, bytes),
    },
  }));
  return Object.assign({}, ...methods);
}
