/** Where saved tokens are kept, for a consumer without a database of its own. */

import { existsSync } from "node:fs";
import { open, readFile, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";

/** Saved tokens: by physical partition where one is read, otherwise under WHOLE. */
export type Positions = ReadonlyMap<string, string>;

/** Names the position of a reader of an entire collection or of a logical partition. */
export const WHOLE = "*";

/**
 * Keeps positions where they outlive this process; for one reader at a time. A consumer with a database of its own needs
 * none: it saves the token in the transaction of its work and starts at `after(token)`.
 */
export interface Checkpoint {
  /** What was saved; empty when nothing was. */
  load(): Promise<Positions>;
  /** Changes some positions, all of them or none; an empty token removes one. Once it resolved, no kill loses it. */
  save(changes: Positions): Promise<void>;
}

/** Positions after a change of some; an empty token removes one. */
export function changed(positions: Positions, changes: Positions): Map<string, string> {
  return new Map([...positions, ...changes].filter(([name]) => (changes.get(name) ?? positions.get(name)) !== ""));
}

/** Keeps positions as long as the process lives. */
export class MemoryCheckpoint implements Checkpoint {
  #positions: Positions = new Map();

  async load(): Promise<Positions> {
    return new Map(this.#positions);
  }

  async save(changes: Positions): Promise<void> {
    this.#positions = changed(this.#positions, changes);
  }
}

/**
 * Keeps positions in a file of JSON, which is replaced whole. A damaged file is an error and never an empty one: to begin
 * anew in silence would be to miss changes, or to repeat all.
 */
export class FileCheckpoint implements Checkpoint {
  #last: Promise<unknown> = Promise.resolve();

  constructor(private readonly path: string) {}

  load(): Promise<Positions> {
    return this.#inTurn(() => this.#read());
  }

  save(changes: Positions): Promise<void> {
    return this.#inTurn(async () => {
      const next = Object.fromEntries(changed(await this.#read(), changes));
      await replaceFile(this.path, JSON.stringify(next));
    });
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#last.then(work, work);
    this.#last = done.catch(() => undefined);
    return done;
  }

  async #read(): Promise<Positions> {
    let text: string;
    try {
      text = await readFile(this.path, "utf8");
    } catch (error) {
      if (error instanceof Error && "code" in error && error.code === "ENOENT") {
        return new Map();
      }
      throw error;
    }
    const found = parsed(text);
    if (!isPositions(found)) {
      throw new Error(`${this.path} holds no positions: bring it back, or remove it to start over`);
    }
    return new Map(Object.entries(found));
  }
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function isPositions(value: unknown): value is Record<string, string> {
  const isObject = typeof value === "object" && value !== null && !Array.isArray(value);
  return isObject && Object.values(value).every((token) => typeof token === "string");
}

/** Leaves the old content or the new one, whenever the machine stops. */
async function replaceFile(path: string, text: string): Promise<void> {
  const isNew = !existsSync(path);
  const draft = `${path}.new`; // Always the same name, so that those who are killed leave one at most.
  await rm(draft, { force: true }); // Somebody else may have put it there to have it overwritten.
  const file = await open(draft, "wx");
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(draft, path);
  if (isNew) {
    await makeDurable(dirname(path));
  }
}

/**
 * Has the names in a folder survive a crash of the machine, where folders can be opened. A new content may come again as
 * the old one, but a file that is gone would have its reader begin elsewhere.
 */
async function makeDurable(folder: string): Promise<void> {
  const names = await open(folder, "r").catch(() => undefined);
  await names?.sync().catch(() => undefined); // Some systems cannot, and keep names in another way.
  await names?.close();
}
