/**
 * A consumer of the change-feed gateway: its tails watch heartbeats, reconnect and resume.
 *
 * <p>Begin at {@link io.changefeed.client.ChangeFeedClient}. The messages are in {@code io.changefeed.v1}.
 */
package io.changefeed.client;
