// Runs an Edge Function in Node: `node deno_stand_in.mjs FUNCTION`. It provides the two parts of Deno
// that the recipe uses, and prints the port on which it listens.

import http from "node:http";
import { readFile } from "node:fs/promises";

const [path] = process.argv.slice(2);

globalThis.Deno = {
  env: { get: (name) => process.env[name] },
  serve(handler) {
    const server = http.createServer(async (incoming, outgoing) => {
      const chunks = [];
      for await (const chunk of incoming) chunks.push(chunk);
      const request = new Request("http://function.test/", {
        method: incoming.method,
        headers: { Authorization: incoming.headers.authorization ?? "" },
        body: Buffer.concat(chunks),
      });
      const answer = await handler(request);
      outgoing.writeHead(answer.status, { "Content-Type": answer.headers.get("Content-Type") ?? "text/plain" });
      outgoing.end(Buffer.from(await answer.arrayBuffer()));
    });
    server.listen(0, "127.0.0.1", () => console.log(server.address().port));
  },
};

const source = await readFile(path, "utf8");
await import(`data:text/javascript,${encodeURIComponent(source)}`);
