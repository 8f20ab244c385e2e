// Sends with firebase-admin and @parse/node-apn as they come. Prints what came back, as JSON.
// Arguments: the sandbox's control port, and the folder with its ca.pem, service_account.json and apns.json.
// HTTPS_PROXY and NODE_EXTRA_CA_CERTS are set by who starts this.
import { readFileSync } from "node:fs";
import apn from "@parse/node-apn";
import admin from "firebase-admin";
import { HttpsProxyAgent } from "https-proxy-agent";

const [port, folder] = process.argv.slice(2);
const read = (name) => readFileSync(`${folder}/${name}`, "utf8");

async function sendFcm() {
  const httpAgent = new HttpsProxyAgent(`http://127.0.0.1:${port}`);
  const credential = admin.credential.cert(JSON.parse(read("service_account.json")));
  admin.initializeApp({ credential, httpAgent });
  const messaging = admin.messaging();
  messaging.enableLegacyHttpTransport(); // its HTTP/2 takes no agent
  const whole = {
    token: "node-whole:device",
    data: { order: "7" },
    notification: { title: "Hello", body: "there" },
    android: { priority: "high", ttl: 3600000, notification: { color: "#112233", channelId: "orders" } },
    apns: { payload: { aps: { badge: 1, sound: "default" } } },
    webpush: { fcmOptions: { link: "https://example.com/" } },
  };
  const batch = await messaging.sendEach([{ token: "node-batch:device" }, { token: "node-unregistered:device" }]);
  return {
    sent: await messaging.send(whole),
    batch: batch.responses.map((one) => (one.success ? "sent" : one.error.code)),
    foreign: await messaging.send({ token: "node-mismatch:device" }).catch((error) => error.code),
  };
}

async function sendApns() {
  const { key, key_id: keyId, team_id: teamId, topic } = JSON.parse(read("apns.json"));
  const token = { key, keyId, teamId };
  const proxy = { host: "127.0.0.1", port: Number(port) };
  const provider = new apn.Provider({ token, production: true, ca: read("ca.pem"), proxy });
  const note = new apn.Notification({ alert: "Hello", topic, pushType: "alert" });
  const first = await provider.send(note, "b0".repeat(32)); // Apple has one stream until a token is proven
  const { sent, failed } = await provider.send(note, ["b1".repeat(32), "b2".repeat(30) + "dead"]);
  await provider.shutdown();
  return { sent: [...first.sent, ...sent].length, failed: failed.map((one) => [one.status, one.response.reason]) };
}

console.log(JSON.stringify({ fcm: await sendFcm(), apns: await sendApns() }));
process.exit(0);
