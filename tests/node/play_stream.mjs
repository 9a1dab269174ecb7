// Plays the program of docs/using.md that reads a stream of events:
// `node play_stream.mjs PROGRAM SERVICE_URL TOKEN LAST_ID`. It prints the first event and ends.

import { readFile } from "node:fs/promises";
import { createParser } from "eventsource-parser";

const [path, serviceUrl, token, lastId] = process.argv.slice(2);
const program = await readFile(path, "utf8");

// In a browser, the page's own origin completes the address.
const fetchHere = (address, options) => fetch(new URL(address, serviceUrl), options);
const show = (event) => {
  console.log(JSON.stringify(event));
  process.exit(0);
};
const reconnect = (reason) => process.exit(`the stream ended: ${reason}`);

const Program = Object.getPrototypeOf(async () => {}).constructor;
await new Program("fetch", "createParser", "token", "lastId", "show", "reconnect", program)(
  fetchHere, createParser, token, lastId, show, reconnect,
);
