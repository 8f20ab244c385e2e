// Tocsin on a page: <script src="https://HOST/sdk/tocsin.js" data-account="…" data-key="…" data-worker="/tocsin-sw.js"></script>
(() => {
  const script = document.currentScript;
  const base = script.src.split("/sdk/")[0];
  const { account, key, worker = "/tocsin-sw.js" } = script.dataset;
  const kept = (name, value) => {
    if (value === null) localStorage.removeItem("tocsin-" + name);
    else if (value !== undefined) localStorage.setItem("tocsin-" + name, value);
    return localStorage.getItem("tocsin-" + name);
  };
  const device = () => kept("device") || kept("device", "web-" + crypto.randomUUID());

  async function report(what) {
    const url = `${base}/sdk/report?${new URLSearchParams({ account, key })}`;
    const body = JSON.stringify({ device: device(), ...what });
    const answer = await fetch(url, { method: "POST", body, keepalive: true });
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.error);
    return told;
  }

  const worker_of = async () => navigator.serviceWorker?.getRegistration(worker);
  const subscription_of = async () => (await worker_of())?.pushManager.getSubscription();
  const letters = (bytes) =>
    btoa(String.fromCharCode(...new Uint8Array(bytes))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");

  // Ask for permission, so call it from a click. False when the answer was no.
  async function subscribe() {
    if ((await Notification.requestPermission()) !== "granted") return false;
    const { key: newest } = await report({});
    const registration = await navigator.serviceWorker.register(`${worker}?server=${encodeURIComponent(base)}`);
    await navigator.serviceWorker.ready;
    let subscription = await registration.pushManager.getSubscription();
    if (subscription && letters(subscription.options.applicationServerKey) !== newest) {
      await subscription.unsubscribe(); // it belongs to a key that was replaced
      subscription = null;
    }
    subscription ||= await registration.pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: newest });
    await report({ subscription });
    kept("subscribed", "1");
    return true;
  }

  async function unsubscribe() {
    kept("subscribed", null);
    return (await subscription_of())?.unsubscribe();
  }

  // Somebody else at this browser is another device: the first one's messages must not come here any more.
  async function become(identity) {
    if (kept("identity") !== null && kept("identity") !== identity) kept("device", null);
    kept("identity", identity);
    const subscription = await subscription_of();
    return report({ ...(identity && { identity }), ...(subscription && { subscription }) });
  }

  window.tocsin = {
    device,
    subscribe,
    unsubscribe,
    login: (identity) => become(String(identity)),
    logout: () => become(null),
    track: (name, properties = {}) => report({ event: { name, properties } }),
  };
  if (kept("subscribed") && window.Notification?.permission === "granted") subscribe().catch(console.warn);
})();
