// Posts with node's fetch and node's http module.
// Arguments: URL, token. Prints one line "status body" for each response.
import http from "node:http";

const [url, token] = process.argv.slice(2);
const authorization = `Bearer ${token}`;

async function show(response) {
  console.log(response.status, await response.text());
}

// A string body gets text/plain;charset=UTF-8, bytes get no Content-Type, a stream goes in chunks.
await show(await fetch(url, { method: "POST", headers: { authorization }, body: "fetch é" }));
const bytes = Uint8Array.from({ length: 256 }, (_, n) => n);
await show(await fetch(url, { method: "POST", headers: { authorization }, body: bytes }));
const stream = new Blob(["fetch ", "stream"]).stream();
const streamed = { method: "POST", headers: { authorization }, body: stream, duplex: "half" };
await show(await fetch(url, streamed));

function post(agent, headers, parts) {
  return new Promise((resolve, reject) => {
    const options = { method: "POST", agent, headers: { authorization, ...headers } };
    const request = http.request(url, options, (response) => {
      let text = "";
      response.on("data", (data) => (text += data));
      response.on("end", () => resolve(console.log(response.statusCode, text)));
    });
    request.on("error", reject);
    if (headers.Expect) {
      request.on("continue", () => request.end(parts.join("")));
      request.flushHeaders();
      return;
    }
    parts.forEach((part) => request.write(part));
    request.end();
  });
}

const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
await post(agent, {}, ["node ", "chunked"]);
await post(agent, { "Content-Length": 11 }, ["node length"]);
await post(agent, { "Content-Length": 11, Expect: "100-continue" }, ["node expect"]);
agent.destroy();
