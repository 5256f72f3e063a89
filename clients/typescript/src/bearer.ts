/** A bearer token for every call. */

import { type CallCredentials, credentials, Metadata, status as Code } from "@grpc/grpc-js";

/** Answers the token to send; it may be another one each time. */
export type BearerSource = () => string | Promise<string>;

const TOKEN = /^[!-~]+$/;

/** Asks for the token of each call. A source without one is an outage, whatever it failed with. */
export function bearerCredentials(source: BearerSource): CallCredentials {
  return credentials.createFromMetadataGenerator((_, done) => {
    authorization(source).then((metadata) => done(null, metadata), (error: unknown) => done(outage(error)));
  });
}

async function authorization(source: BearerSource): Promise<Metadata> {
  const token: unknown = await source();
  // Tested here because gRPC's own complaint quotes the text, and a newline at its end makes no secret less of one.
  if (typeof token !== "string" || !TOKEN.test(token)) {
    throw new Error("that is no token: it is empty, or holds more than visible ASCII");
  }
  const metadata = new Metadata();
  metadata.set("authorization", `Bearer ${token}`);
  return metadata;
}

/** gRPC hands on the code, and UNKNOWN for an error without: that would be the end of every tail. */
function outage(error: unknown): Error {
  const said = error instanceof Error ? error.message : "the source of the bearer token failed";
  return Object.assign(new Error(said), { code: Code.UNAVAILABLE });
}
