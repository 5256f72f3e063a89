// The Node SDK, unmodified, at the other end of a pipe: each line on standard input is a command, answered by one line.
// Arguments: the folder whose node_modules has the SDK, endpoint, key, database, container.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const [folder, endpoint, key, database, name] = process.argv.slice(2);
const cosmos = createRequire(`${folder}/`)("@azure/cosmos");
const client = new cosmos.CosmosClient({ endpoint, key });
const container = client.database(database).container(name);

let iterator;

const starts = {
  now: () => cosmos.ChangeFeedStartFrom.Now(),
  beginning: () => cosmos.ChangeFeedStartFrom.Beginning(),
  time: ({ time }) => cosmos.ChangeFeedStartFrom.Time(new Date(time)),
  continuation: ({ continuation }) => cosmos.ChangeFeedStartFrom.Continuation(continuation),
};

const commands = {
  // Begin to read; what follows comes from there.
  open({ mode, start, page, ...more }) {
    const changeFeedMode =
      mode === "AllVersionsAndDeletes"
        ? cosmos.ChangeFeedMode.AllVersionsAndDeletes
        : cosmos.ChangeFeedMode.LatestVersion;
    const changeFeedStartFrom =
      "partitionKey" in more ? cosmos.ChangeFeedStartFrom[start](more.partitionKey) : starts[start](more);
    iterator = container.items.getChangeFeedIterator({ changeFeedMode, changeFeedStartFrom, maxItemCount: page });
  },
  // Everything up to the first page without changes, and where to go on from there.
  async drain() {
    const documents = [];
    for (;;) {
      const page = await iterator.readNext();
      if (page.statusCode === cosmos.StatusCodes.NotModified) {
        return { documents, continuation: page.continuationToken };
      }
      documents.push(...page.result);
    }
  },
  async create({ item }) {
    return (await container.items.create(item)).resource;
  },
  async upsert({ item }) {
    return (await container.items.upsert(item)).resource;
  },
  async replace({ item, partitionKey }) {
    return (await container.item(item.id, partitionKey).replace(item)).resource;
  },
  async delete({ id, partitionKey }) {
    await container.item(id, partitionKey).delete();
  },
  async batch({ operations, partitionKey }) {
    return (await container.items.batch(operations, partitionKey)).result.map((one) => one.statusCode);
  },
  async point({ id, partitionKey }) {
    return (await container.item(id, partitionKey).read()).resource;
  },
  async query({ query, partitionKey }) {
    return (await container.items.query(query, { partitionKey }).fetchAll()).resources;
  },
  async ranges() {
    return await container.getFeedRanges();
  },
  async describe() {
    return (await container.read()).resource;
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...options } = JSON.parse(line);
  let answer;
  try {
    answer = { result: (await commands[command](options)) ?? null };
  } catch (error) {
    answer = { error: { code: error.code ?? null, substatus: error.substatus ?? null, message: error.message } };
  }
  console.log(JSON.stringify(answer));
}
