// Reads an AsyncAPI document from standard input, and prints every finding of the official parser as JSON.
import { createRequire } from "node:module";
import { text } from "node:stream/consumers";

const require = createRequire(process.argv[2] + "/");
const { Parser } = require("@asyncapi/parser");

const { document, diagnostics } = await new Parser().parse(await text(process.stdin));
const findings = diagnostics.map(({ severity, message, path }) => ({ severity, message, path: path.join("/") }));
const channels = document ? Object.fromEntries(document.channels().all().map((channel) => [
  channel.address() ?? channel.id(),
  channel.messages().all().map((message) => message.name()),
])) : null;
console.log(JSON.stringify({ version: document?.version() ?? null, findings, channels }));
