// Commits a turn of an agent and meets a refusal: a client of RuntimeStore in one file.
//
//   npm install && npm start [-- ADDRESS]
import { createHash, randomUUID } from "node:crypto";
import { fileURLToPath } from "node:url";

import * as grpc from "@grpc/grpc-js";
import * as protoLoader from "@grpc/proto-loader";
import protobuf from "protobufjs";

// The protos are read when the program starts: no generated code, no build step.
const PROTOS = fileURLToPath(new URL("../../proto", import.meta.url));
const loaded = protoLoader.loadSync("runtimestore/v1/runtime_store.proto", {
  includeDirs: [PROTOS],
  keepCase: true, // names as in the protos
  enums: String,
  longs: String, // a uint64 may be larger than the integers of a number
});
const { RuntimeStore } = (grpc.loadPackageDefinition(loaded) as any).runtimestore.v1;

const store = new RuntimeStore(process.argv[2] ?? "127.0.0.1:50051", grpc.credentials.createInsecure());

/** One call, as a promise. Without a deadline a call to a server that is not there may wait for ever. */
function call(method: string, request: object): Promise<any> {
  return new Promise((resolve, reject) => {
    store[method](request, { deadline: Date.now() + 20_000 }, (error: grpc.ServiceError | null, answer: any) =>
      error ? reject(error) : resolve(answer),
    );
  });
}

// The three messages of google.rpc that a refusal is made of, as far as they are read here.
const google = protobuf.parse(`
  syntax = "proto3";
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }
`, { keepCase: true }).root;

/** Decodes a refusal: google.rpc.Status holds a google.rpc.ErrorInfo, and that the reason (see error_reason.proto). */
function reason(error: grpc.ServiceError): string | undefined {
  const [bytes] = error.metadata?.get("grpc-status-details-bin") ?? [];
  if (bytes === undefined) return undefined; // the connection failed, or a deadline passed: go by error.code
  const status: any = google.lookupType("Status").decode(bytes as Buffer);
  for (const detail of status.details) {
    if (!detail.type_url.endsWith("/google.rpc.ErrorInfo")) continue;
    const info: any = google.lookupType("ErrorInfo").decode(detail.value);
    if (info.domain === "runtimestore.v1") return info.reason;
  }
  return undefined;
}

/** Joins the parts of a session: a description first, then chunks. No part at all means no session. */
async function loadSession(runtimeId: string): Promise<Buffer | undefined> {
  let info: any;
  const chunks: Buffer[] = [];
  const deadline = Date.now() + 20_000;
  for await (const part of store.LoadSessionSnapshot({ runtime_id: runtimeId }, { deadline })) {
    if (part.info) info = part.info;
    else chunks.push(part.chunk);
  }
  if (info === undefined) return undefined;
  const session = Buffer.concat(chunks);
  if (!createHash("sha256").update(session).digest().equals(info.sha256)) {
    throw new Error("what arrived is not what was written");
  }
  return session;
}

const inputDocument = (inputId: string, state: string) =>
  JSON.stringify({ input_id: inputId, current_state: state, prompt: "Hello" });

const sessionId = randomUUID();
const inputId = randomUUID();
const runtimeId = `rt:session:${sessionId}`;
const now = { secs_since_epoch: Math.floor(Date.now() / 1000), nanos_since_epoch: 0 };

// Persist the input first, then tell its sender that it was accepted.
const persisted = await call("PersistInputState", {
  runtime_id: runtimeId,
  request_id: randomUUID(),
  state: { input_id: inputId, state_json: inputDocument(inputId, "queued") },
});
console.log(`accepted at revision ${persisted.revision}`);

// The turn: session, receipt and the consumed input, in one transaction.
const session = Buffer.from(JSON.stringify({
  id: sessionId,
  messages: [{ role: "user", content: "Hello" }, { role: "assistant", content: "Hello!" }],
  created_at: now,
  updated_at: now,
}));
const turn = {
  runtime_id: runtimeId,
  // Minted once for the write and kept over its retries: a repeat is answered as the first time and changes nothing.
  request_id: randomUUID(),
  session_delta: { session_snapshot: session },
  receipt: {
    run_id: randomUUID(),
    boundary: "RUN_APPLY_BOUNDARY_RUN_START",
    contributing_input_ids: [inputId],
    message_count: 2,
    sequence: 0,
  },
  input_updates: [{ input_id: inputId, state_json: inputDocument(inputId, "consumed") }],
  if_revision: persisted.revision, // nobody else wrote in between
};
for (let attempt = 0; attempt < 2; attempt++) { // as a retry would, when the first answer is lost
  const committed = await call("AtomicApply", turn);
  console.log(`committed at revision ${committed.revision}, replayed ${committed.replayed ?? false}`);
}

console.log(`session equal: ${(await loadSession(runtimeId))?.equals(session)}`);

// The same boundary as another request: refused, and the refusal says why.
try {
  await call("AtomicApply", { ...turn, request_id: randomUUID(), if_revision: undefined });
  throw new Error("a refusal was expected");
} catch (error) {
  const why = reason(error as grpc.ServiceError);
  console.log(`refused: ${why}`);
  if (why !== "BOUNDARY_RECEIPT_EXISTS") throw error;
}
store.close();
