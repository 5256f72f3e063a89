import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { ChangeType, ClosingReason, ItemState, KeyType } from "../src/messages.js";
import { gateway, type Said } from "./gateway.js";

test("the mirror tells an item with an empty key from one with null", async (t) => {
  const item = (type: KeyType, value: string) => ({
    changeType: ChangeType.CREATE,
    itemState: ItemState.INCLUDED,
    key: { components: [{ name: "id", value, type }] },
    newItemJson: "1",
  });
  const events = [item(KeyType.STRING, ""), item(KeyType.NULL, ""), item(KeyType.NUMBER, "1")];
  const batch: Said = { case: "batch", value: { continuationToken: "t", events } };
  const end: Said = { case: "closing", value: { continuationToken: "t", reason: ClosingReason.PARTITION_RETIRED } };
  const { target } = await gateway(t, { getCapabilities: () => ({}), subscribe: () => [batch, end] });
  const file = join(mkdtempSync(join(tmpdir(), "changefeed-")), "mirror.json");
  const program = new URL("../examples/mirror.js", import.meta.url);
  await promisify(execFile)(process.execPath, [fileURLToPath(program), "main/documents", file], {
    env: { ...process.env, CHANGEFEED_TARGET: target },
  });
  assert.deepEqual(JSON.parse(readFileSync(file, "utf8")).items, { '[""]': 1, "[null]": 1, '["1"]': 1 });
});
