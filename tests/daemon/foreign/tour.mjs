// Asks the daemon everything that there is to ask, and prints what came back as one JSON object.
// Arguments: the connection file, a clip, an output folder.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { encode } from "@msgpack/msgpack";
import { Client, readConnection } from "./client.mjs";

const [file, clip, output] = process.argv.slice(2);
const connection = readConnection(file);
const client = new Client(connection);
const seen = {};

async function refusal(promise) {
  try {
    await promise;
    return null;
  } catch (error) {
    return { code: error.code, field: error.details?.field ?? null, details: error.details ?? null };
  }
}

seen.hello = await client.ask("hello", { client: "a client in JavaScript" });
seen.ping = await client.ask("ping");
seen.models = (await client.ask("models")).models.map((model) => model.name);
seen.unload = (await client.ask("unload")).models;

const suggested = await client.submit("suggest", { path: clip, count: 2, start: "1/2", seed: 7 });
seen.suggest = await client.wait(suggested.job);

const progress = [];
const order = { path: clip, output, prompt: "slow 60", takes: 2, idempotency_key: "one-of-node" };
const generated = await client.submit("generate", order);
seen.generate = await client.wait(generated.job, (step) => progress.push(step));
seen.progress = progress;
seen.again = await client.submit("generate", order);
seen.get = (await client.ask("get", { job: generated.job, history: true })).job;

const long = await client.submit("generate", { path: clip, output, prompt: "slow 1000" });
const end = client.wait(long.job);
seen.cancel = await client.ask("cancel", { job: long.job });
seen.cancelled = await end;

const items = Array.from({ length: 30 }, (_, n) => ({ path: n % 10 === 9 ? `/nowhere/${n}.mp4` : clip, prompt: `item ${n}` }));
const batch = await client.submit(
  "batch",
  { items: items.slice(0, 10), defaults: { output } },
  { buffers: [encode(items.slice(10, 20)), encode(items.slice(20))] },
);
seen.batch = await client.wait(batch.job);
seen.items = [];
for await (const item of client.list({ batch: batch.job, results: true, limit: 7 })) seen.items.push(item);
seen.pages = [];
for await (const job of client.list({ limit: 2 })) seen.pages.push(job.id);

const bytes = readFileSync(clip);
const sent = { name: "from-afar.mp4", size: bytes.length, sha256: createHash("sha256").update(bytes).digest() };
seen.upload = await client.submit("upload", sent);
const { upload } = seen.upload;
for (let offset = seen.upload.offset; offset < bytes.length; ) {
  ({ offset } = await client.submit("chunk", { upload, offset, data: bytes.subarray(offset, offset + 10) }));
}
seen.gap = await refusal(client.submit("chunk", { upload, offset: 1, data: bytes.subarray(1, 2) }));
seen.finish = await client.submit("finish", { upload });
seen.uploadAgain = await client.submit("upload", sent);
const afar = await client.submit("generate", { path: `upload:${upload}`, output: "download:", prompt: "from afar" });
seen.afar = await client.wait(afar.job);
seen.fetched = [];
for (const { wav } of seen.afar.result.takes) {
  const parts = [];
  for (let offset = 0, size = 1; offset < size; offset += 4) {
    const piece = await client.submit("fetch", { job: afar.job, name: wav, offset, length: 4 });
    size = piece.size;
    parts.push(Buffer.from(piece.data));
  }
  seen.fetched.push(Buffer.concat(parts).toString());
}
seen.noFile = await refusal(client.submit("fetch", { job: afar.job, name: "../../keys/server.secret" }));

const everything = await client.jobs.request({ type: "watch" }, { onEvent: () => {} });
seen.unwatch = await client.jobs.request({ type: "unwatch", watch: everything.id });
seen.status = await client.ask("status");

seen.unknownField = await refusal(client.submit("generate", { path: clip, output, promt: "x" }));
seen.outOfRange = await refusal(client.submit("suggest", { path: clip, count: 99 }));
seen.otherContent = await refusal(client.submit("generate", { ...order, takes: 1 }));
seen.noJob = await refusal(client.ask("get", { job: "0".repeat(32) }));
seen.noClip = await refusal(client.submit("suggest", { path: "/nowhere.mp4" }));
seen.version = await refusal(client.ask("ping", {}, { version: Buffer.from([9, 0]) }));

const stranger = new Client({
  ...connection,
  client_public: "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID",
  client_secret: "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs",
});
seen.wrongKey = await refusal(stranger.ask("ping"));
stranger.close();

seen.shutdown = await client.ask("shutdown");
client.close();
process.stdout.write(JSON.stringify(seen));
process.exit(0);
