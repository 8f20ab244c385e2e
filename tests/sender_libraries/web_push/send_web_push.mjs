// Sends with web-push as it comes. Prints what came back, as JSON.
// Argument: the folder with the sandbox's vapid.pem and subscriptions.json.
import { createPrivateKey } from "node:crypto";
import { readFileSync } from "node:fs";
import webpush from "web-push";

const folder = process.argv[2];
const { d, x, y } = createPrivateKey(readFileSync(`${folder}/vapid.pem`)).export({ format: "jwk" });
const point = Buffer.concat([Buffer.of(4), Buffer.from(x, "base64url"), Buffer.from(y, "base64url")]);
const vapidDetails = { subject: "mailto:ops@example.com", publicKey: point.toString("base64url"), privateKey: d };
const came = [];
for (const subscription of JSON.parse(readFileSync(`${folder}/subscriptions.json`))) {
  const options = { TTL: 60, urgency: "low", topic: "orders", vapidDetails, proxy: process.env.HTTPS_PROXY };
  const answer = await webpush.sendNotification(subscription, "Grüße aus Node", options).catch((error) => error);
  came.push(answer.statusCode);
}
console.log(JSON.stringify({ came }));
