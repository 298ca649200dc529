// A client of the VATT daemon, written from docs/protocol.md and from nothing else.

import { readFileSync, statSync } from "node:fs";
import { decode, encode } from "@msgpack/msgpack";
import { Dealer } from "zeromq";

const VERSION = Buffer.from([1, 0]);

export class DaemonError extends Error {
  constructor({ code, message, retryable, retry_after, details }) {
    super(message);
    Object.assign(this, { code, retryable, retryAfter: retry_after, details });
  }
}

export function readConnection(file) {
  const about = statSync(file);
  if (about.uid !== process.getuid() || (about.mode & 0o077) !== 0) {
    throw new Error(`${file} can be read by others`);
  }
  return JSON.parse(readFileSync(file, "utf8"));
}

// One of the two sockets. Answers are told apart by their request id, events go to whoever watches.
class Link {
  constructor(address, connection) {
    this.socket = new Dealer({
      linger: 0,
      immediate: true,
      heartbeatInterval: 2000,
      heartbeatTimeout: 6000,
      curveServerKey: connection.server_public,
      curvePublicKey: connection.client_public,
      curveSecretKey: connection.client_secret,
    });
    this.refused = new Promise((resolve) => {
      this.socket.events.on("handshake:error:auth", () => resolve("unknown key"));
    });
    this.socket.connect(address);
    this.number = 0;
    this.waiting = new Map();
    this.watching = new Map();
    this.receive();
  }

  async receive() {
    for await (const [, id, body] of this.socket) {
      const message = decode(body);
      const key = id.toString("hex");
      if (message.type === "event") {
        this.watching.get(key)?.(message);
      } else {
        this.waiting.get(key)?.(message);
        this.waiting.delete(key);
      }
    }
  }

  async request(body, { version = VERSION, buffers = [], onEvent } = {}) {
    const id = Buffer.from(`node-${++this.number}`);
    const key = id.toString("hex");
    if (onEvent) this.watching.set(key, onEvent);
    const answer = new Promise((resolve) => this.waiting.set(key, resolve));
    // A send waits for the handshake, which never succeeds with a key that the daemon does not know.
    const sent = this.socket.send([version, id, encode(body), ...buffers]);
    sent.catch(() => {});
    const refusal = this.refused.then((reason) => ({ type: "error", error: { code: "unauthorised", message: reason } }));
    const message = await Promise.race([sent.then(() => answer), refusal]);
    if (message.type === "error") throw new DaemonError(message.error);
    return { ...message, id: key };
  }

  close() {
    this.socket.close();
  }
}

export class Client {
  constructor(connection) {
    this.jobs = new Link(connection.jobs, connection);
    this.control = new Link(connection.control, connection);
  }

  ask(type, fields = {}, options = {}) {
    return this.control.request({ type, ...fields }, options);
  }

  submit(type, fields, options = {}) {
    return this.jobs.request({ type, ...fields }, options);
  }

  // Resolves with the job once it has ended.
  async wait(job, onProgress = () => {}) {
    let settle;
    const ended = new Promise((resolve) => (settle = resolve));
    const look = (found) => {
      if (found.id === job && ["done", "failed", "cancelled"].includes(found.state)) settle(found);
    };
    const answer = await this.jobs.request(
      { type: "watch", jobs: [job] },
      { onEvent: (event) => (event.event === "state" ? look(event.job) : onProgress(event.progress)) },
    );
    answer.jobs.forEach(look);
    return ended;
  }

  async *list(fields) {
    let before = null;
    do {
      const page = await this.ask("list", { ...fields, before });
      yield* page.jobs;
      before = page.next;
    } while (before !== null);
  }

  close() {
    this.jobs.close();
    this.control.close();
  }
}
