// Upload, send, create and result by openapi-fetch with the generated types. Arguments: the server, the account, its
// passcode.
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

declare const process: { argv: string[] };
const [address, account, passcode] = process.argv.slice(2);
const headers = { "X-CleverTap-Account-Id": account, "X-CleverTap-Passcode": passcode };
const client = createClient<paths>({ baseUrl: address, headers });
type Campaign = components["schemas"]["Campaign"];

function need<T>(answer: { data?: T; error?: unknown }): T {
  if (answer.data === undefined) throw new Error(JSON.stringify(answer.error));
  return answer.data;
}

const d: components["schemas"]["UploadRecords"]["d"] = [
  { type: "profile", identity: "john", objectId: "phone", profileData: { Name: "John" } },
  { type: "token", objectId: "phone", tokenData: { type: "fcm", id: "one:fcm-registration-token" } },
];
const uploaded = need(await client.POST("/1/upload", { body: { d } }));

const content = { title: "Hi", body: "there" };
const queued = need(
  await client.POST("/1/send/push.json", {
    body: { to: { Identity: ["john"] }, content } as components["schemas"]["SendPush"],
    params: { header: { "Idempotency-Key": "typescript" } },
  }),
);

const asked = { name: "generated", when: "now", where: {}, content, devices: ["android"] } as Campaign;
const made = need(await client.POST("/1/targets/create.json", { body: asked }));

const nobody = await client.POST("/1/targets/result.json", { body: { id: 1 } });

let result = await client.POST("/1/targets/result.json", { body: { id: made.id! } });
for (const deadline = Date.now() + 60_000; result.error; ) {
  if (Date.now() > deadline) throw new Error(result.error.error);
  result = await client.POST("/1/targets/result.json", { body: { id: made.id! } });
}
const told = { processed: uploaded.processed, queued: queued.message, estimates: made.estimates };
console.log(JSON.stringify({ ...told, sent: need(result).result.sent, code: nobody.error?.code }));
