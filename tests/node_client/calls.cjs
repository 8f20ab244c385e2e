// Makes every call of CleverTap's client, with one line changed: where it finds the API. Prints what each resolves to.
"use strict";

const [port, account, passcode] = process.argv.slice(2);
const client = require("clevertap").init(account, passcode, require("clevertap").REGIONS.EUROPE);
client.api.apiEndpoint = `http://127.0.0.1:${port}/1`;

const now = Math.floor(Date.now() / 1000);
const day = (shift) => Number(new Date((now + shift * 86400) * 1000).toISOString().slice(0, 10).replaceAll("-", ""));
const asked = { event_name: "Bought", from: day(-1), to: day(1) };
const people = Array.from({ length: 12 }, (_, number) => ({
  type: "profile",
  identity: `n${number}`,
  objectId: `d${number}`,
  profileData: { Name: `Node ${number}`, Email: `n+${number}@example.com`, Phone: `+49151123456${number + 10}` },
}));
const bought = people.map(({ identity }, number) => ({
  type: "event",
  identity,
  evtName: "Bought",
  evtData: { Amount: number, Kind: number % 2 ? "odd" : "even" },
  ts: now - 60,
}));
const token = [{ type: "token", objectId: "d0", tokenData: { type: "fcm", id: "node-client:token" } }];
const campaign = {
  name: "from Node",
  when: "now",
  segment: "all",
  content: { title: "Hello", body: "there" },
  devices: ["android"],
};

async function main() {
  const found = {};
  const call = async (name, promise) => (found[name] = await promise);
  await call("upload", client.upload([...people, ...bought], { batchSize: 10 }));
  await call("tokens", client.uploadDeviceTokens(token));
  await call("profile", client.profile({ email: "n+3@example.com" }));
  await call("byIdentity", client.profile({ identity: "n4" }));
  await call("byObjectId", client.profile({ objectId: "d5" }));
  await call("nobody", client.profile({ identity: "nobody" }));
  await call("profiles", client.profiles(asked, { batchSize: 5 }));
  await call("events", client.events(asked, { batchSize: 5 }));
  await call("profileCount", client.getProfilesCount(asked));
  await call("eventCount", client.getEventsCount(asked));
  const groups = { kind: { property_type: "event_properties", name: "Kind" } };
  await call("top", client.topPropertyCounts({ ...asked, groups }));
  await call("trends", client.trends({ ...asked, groups: { daily: { trend_type: "daily" } } }));
  await call("now", client.realTimeCounts({ user_type: true }));
  await call("estimate", client.targets(client.TARGET_ESTIMATE, { ...campaign }));
  const made = await call("create", client.targets(client.TARGET_CREATE, { ...campaign, when: `${day(1)} 10:00` }));
  await call("list", client.targets(client.TARGET_LIST, { from: day(-1), to: day(2) }));
  await call("result", client.targets(client.TARGET_RESULT, { id: made.id }));
  await call("stop", client.targets(client.TARGET_STOP, { id: made.id }));
  await call("reports", client.getMessageReports({ from: String(day(-1)), to: String(day(2)) }));
  const left = { type: "email", value: "n+6@example.com", status: "Unsubscribe" };
  await call("subscribe", client.subscribe({ d: [left] }));
  await call("disassociate", client.disassociate({ d: [{ type: "phone", value: "+4915112345617" }] }));
  await call("demerge", client.demerge({ identities: ["n8"] }));
  await call("delete", client.delete({ identity: "n9" }));
  await call("deleteSeveral", client.delete({ identity: ["n10", "n11"] }));
  await call("deleted", client.profile({ identity: "n9" }));
  console.log(JSON.stringify(found));
}

main();
