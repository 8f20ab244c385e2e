// What a page says went wrong gets the focus, so that a keyboard and a screen reader are where the words are.
const focusOnAlert = () => document.querySelector("[data-focus]")?.focus();
document.addEventListener("htmx:after:swap", focusOnAlert);
focusOnAlert();

// A part that got no answer says so in its place, instead of «loading» for ever.
document.addEventListener("htmx:error", ({ target, detail }) => {
  if (!detail?.ctx) return; // no request
  const place = target.closest?.("[data-trouble]") ?? document.getElementById("trouble");
  if (!place) return;
  const said = document.createElement("p");
  said.className = "warn";
  said.role = "alert";
  said.textContent = place.dataset.trouble;
  place.replaceChildren(said);
});
document.addEventListener("htmx:after:request", ({ detail }) => {
  if (detail?.ctx?.response?.status < 400) document.getElementById("trouble")?.replaceChildren();
});
