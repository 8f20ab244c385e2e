// What a page says went wrong gets the focus, so that a keyboard and a screen reader are where the words are.
const focusOnAlert = () => document.querySelector("[data-focus]")?.focus();
document.addEventListener("htmx:after:swap", focusOnAlert);
focusOnAlert();
