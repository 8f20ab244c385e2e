// Tocsin's service worker. A site has it as /tocsin-sw.js: importScripts("https://HOST/sdk/tocsin-sw.js");
(() => {
  const base = new URL(self.location.href).searchParams.get("server");
  const report = (kind, data) =>
    base && data.wzrk_pid
      ? fetch(`${base}/track/${kind}`, { method: "POST", mode: "no-cors", body: JSON.stringify({ id: data.wzrk_pid }) }).catch(() => {})
      : null;

  self.addEventListener("install", () => self.skipWaiting());
  self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

  self.addEventListener("push", (event) => {
    let told;
    try {
      told = event.data.json();
    } catch {
      return; // somebody else's
    }
    const options = told.notificationOptions;
    if (!options?.data?.wzrk_id) return;
    const links = { "": told.deepLink };
    for (const { action, deepLink } of options.actions || []) links[action] = deepLink;
    const data = { ...options.data, links };
    event.waitUntil(self.registration.showNotification(told.title, { ...options, data }).then(() => report("viewed", data)));
  });

  self.addEventListener("notificationclick", (event) => {
    const data = event.notification.data;
    if (!data?.wzrk_id) return;
    event.notification.close();
    const link = data.links[event.action] || data.links[""] || self.registration.scope;
    event.waitUntil(Promise.all([self.clients.openWindow(link), report("clicked", data)]));
  });
})();
