// Let the search find an option as it is written: a leading "-" would exclude the word.
document.addEventListener("keyup", (event) => {
  const field = event.target;
  if (!(field instanceof HTMLInputElement) || !field.matches("[data-md-component=search-query]")) return;
  const words = field.value.replace(/(^|\s)-+(?=\w)/g, "$1");
  if (words !== field.value) field.value = words;
}, true);
