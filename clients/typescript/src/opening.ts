/** The end of a connection that never begins. */

import type { Socket } from "node:net";
import type { ChannelCredentials, experimental } from "@grpc/grpc-js";

type Opened = experimental.SecureConnectResult;

/** Of a peer's silence while a connection is opened. */
const LONGEST = 10_000;

/**
 * Bounds the opening of each connection that is made with these credentials, in milliseconds. gRPC for Node waits for ever
 * for a peer that accepts and then says nothing, in the TLS handshake or after it, and every call waits for it. What is
 * wrapped here is how gRPC lets credentials of other packages connect; it changed in a minor version before, so
 * package.json keeps to one.
 */
export function bounded(credentials: ChannelCredentials, longest = LONGEST): ChannelCredentials {
  const create = credentials._createSecureConnector.bind(credentials);
  credentials._createSecureConnector = (...which) => {
    const connector = create(...which);
    const connect = connector.connect.bind(connector);
    connector.connect = (socket) => within(longest, socket, connect(socket));
    return connector;
  };
  return credentials;
}

function within(longest: number, socket: Socket, opening: Promise<Opened>): Promise<Opened> {
  const before = socket.bytesRead; // A proxy on the way has spoken already.
  let opened: Socket | undefined;
  return new Promise((resolve, reject) => {
    const end = () => {
      const heard = opened && opened.bytesRead > (opened === socket ? before : 0);
      if (!heard) {
        reject(new Error(`the peer said nothing for ${longest} ms`));
        socket.destroy();
      }
    };
    setTimeout(end, longest).unref();
    opening.then((result) => {
      opened = result.socket;
      resolve(result);
    }, reject);
  });
}
