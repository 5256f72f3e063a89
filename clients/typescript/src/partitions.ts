/** Reads the physical partitions of a collection in parallel, children after all their parents. */

import type { ChildPartition, PhysicalPartition } from "../gen/changefeed/v1/partition_pb.js";
import type { StartPosition } from "../gen/changefeed/v1/position_pb.js";
import type { ResourceAddress } from "../gen/changefeed/v1/resource_pb.js";
import { type Checkpoint, changed } from "./checkpoint.js";
import type { ChangeFeedClient } from "./client.js";
import { patiently } from "./outage.js";
import { after, physicalPartition } from "./positions.js";
import { either } from "./signals.js";
import type { Delivery, StreamOptions } from "./tail.js";

export interface PartitionsOptions extends StreamOptions {
  readonly checkpoint: Checkpoint;
  /**
   * Begins with these physical partitions in place of all. Other processes may read the others, each with a checkpoint of
   * its own; a child whose parents two of them read waits for its own reader's only. One that the collection does not
   * have is NOT_FOUND.
   */
  readonly only?: readonly string[];
}

interface End {
  readonly id: string;
  readonly children: readonly ChildPartition[];
}

export class PartitionReader {
  /** Of partitions that are not read to their end; what is in none is finished or to come. */
  #positions = new Map<string, string>();
  readonly #parents = new Map<string, readonly string[]>();
  readonly #running = new Map<string, Promise<End>>();
  readonly #stop = new AbortController();
  readonly #ending: AbortSignal;

  constructor(
    private readonly client: ChangeFeedClient,
    private readonly address: ResourceAddress,
    private readonly handle: (partitionId: string, delivery: Delivery) => Promise<void>,
    private readonly options: PartitionsOptions,
  ) {
    this.#ending = either(options.signal, this.#stop.signal);
  }

  async run(start: StartPosition): Promise<void> {
    await this.#begin(start);
    try {
      while (this.#positions.size > 0) {
        this.#startReady();
        const end = await Promise.race(this.#running.values());
        this.#running.delete(end.id);
        await this.#retire(end);
      }
    } finally {
      this.#stop.abort();
      await Promise.allSettled(this.#running.values());
    }
  }

  /** Finds the positions: those saved, or those of the start in every partition, fixed before anything is read. */
  async #begin(start: StartPosition): Promise<void> {
    const { checkpoint, only } = this.options;
    this.#positions = new Map(await checkpoint.load());
    const isFirst = this.#positions.size === 0;
    await this.#learnParents();
    if (!isFirst) {
      return;
    }
    // One that nobody has is the gateway's to refuse; passed over, it would look like one that is finished.
    for (const partitionId of only?.length ? only : this.#parents.keys()) {
      const scope = physicalPartition(partitionId);
      const place = await this.#patiently(() => this.client.resolve(this.address, start, scope, this.#ending));
      this.#positions.set(partitionId, place.continuationToken);
    }
    await checkpoint.save(this.#positions);
  }

  async #learnParents(): Promise<void> {
    for (const { partitionId, parentPartitionIds } of await this.#patiently(() => this.#listed())) {
      if (!this.#parents.has(partitionId)) {
        this.#parents.set(partitionId, parentPartitionIds);
      }
    }
  }

  async #listed(): Promise<readonly PhysicalPartition[]> {
    const found: PhysicalPartition[] = [];
    for await (const partition of this.client.partitions(this.address, this.#ending)) {
      found.push(partition);
    }
    return found;
  }

  #patiently<T>(call: () => Promise<T>): Promise<T> {
    return patiently(call, { ...this.options, signal: this.#ending });
  }

  /** Whether any ancestor is still read: a parent may be one that its own parents have yet to name. */
  #isWaiting(id: string): boolean {
    const ancestors = new Set(this.#parents.get(id));
    for (const ancestor of ancestors) {
      if (this.#positions.has(ancestor)) {
        return true;
      }
      for (const parent of this.#parents.get(ancestor) ?? []) {
        ancestors.add(parent); // It is visited too.
      }
    }
    return false;
  }

  #startReady(): void {
    for (const [id, token] of this.#positions) {
      if (!this.#running.has(id) && !this.#isWaiting(id)) {
        this.#running.set(id, this.#followed(id, token));
      }
    }
    if (this.#running.size === 0) {
      throw new Error("the partitions wait for each other");
    }
  }

  /** What fails first ends everything, also an outage that another partition's children wait for. */
  async #followed(id: string, token: string): Promise<End> {
    try {
      return await this.#read(id, token);
    } catch (error) {
      this.#stop.abort(error);
      throw error;
    }
  }

  /** Follows one partition to its end. */
  async #read(id: string, token: string): Promise<End> {
    const { checkpoint, only: _, ...options } = this.options;
    const children: ChildPartition[] = [];
    const scope = physicalPartition(id);
    const tail = this.client.tail(this.address, after(token), { ...options, scope, signal: this.#ending });
    for await (const delivery of tail) {
      await this.handle(id, delivery);
      await checkpoint.save(new Map([[id, delivery.continuationToken]]));
      children.push(...delivery.children);
    }
    return { id, children };
  }

  /** Puts the children in the place of a partition, in one step, so that a crash leaves the one or the others. */
  async #retire({ id, children }: End): Promise<void> {
    const changes = new Map([[id, ""]]);
    for (const child of children) {
      this.#parents.set(child.partitionId, child.parentPartitionIds);
      if (!this.#positions.has(child.partitionId)) {
        // Otherwise another parent, or the first listing, named it already.
        changes.set(child.partitionId, child.continuationToken);
      }
    }
    if (children.some((child) => child.parentPartitionIds.some((parent) => !this.#parents.has(parent)))) {
      await this.#learnParents();
    }
    this.#positions = changed(this.#positions, changes);
    await this.options.checkpoint.save(changes);
  }
}
