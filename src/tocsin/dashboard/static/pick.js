// A file that is picked is read here and put into the field it belongs to: forms carry text.
const readPicked = async (input) => {
  const [file] = input.files;
  const field = document.getElementById(input.dataset.into);
  if (!file || file.size > 20000) return;
  field.value = await file.text();
  const id = document.getElementById("key_id"); // Apple names the file after the key
  const named = /^AuthKey_([A-Z0-9]{10})\.p8$/.exec(file.name);
  if (id && named && !id.value) id.value = named[1];
};
for (const input of document.querySelectorAll("input[data-into]")) {
  input.hidden = false;
  input.addEventListener("change", () => readPicked(input));
  readPicked(input); // one that was picked before this ran, or before the page was left and come back to
}
