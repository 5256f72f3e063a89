import { LosslessNumber, parse, stringify } from "lossless-json";

/**
 * Reads the JSON text of an item, such as `ChangeEvent.newItemJson`, without losing digits, where JSON.parse rounds what a
 * double cannot hold. A number becomes a LosslessNumber, which is its text, unless `numbers` makes another value of it:
 * `Number`, `BigInt`, or a decimal's constructor. Of a key that comes again the last value counts, as with JSON.parse: a
 * database may keep both. Throws SyntaxError.
 */
export function parseItem(text: string, numbers: (text: string) => unknown = (digits) => new LosslessNumber(digits)): unknown {
  return parse(text, undefined, { parseNumber: numbers, onDuplicateKey: ({ newValue }) => newValue });
}

/** Writes what parseItem read, every number as it was. */
export function formatItem(item: unknown): string {
  return stringify(item) ?? "null";
}

export { LosslessNumber };
