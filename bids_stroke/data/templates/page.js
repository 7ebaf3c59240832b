"use strict";
// Flicker: show the first two views of a figure in turn, slower than three times a second.
for (const button of document.querySelectorAll(".views > .flicker")) {
  const inputs = [...button.parentElement.querySelectorAll("input[type=radio]")].slice(0, 2);
  let timer = null;
  const stop = () => {
    clearInterval(timer);
    timer = null;
    button.setAttribute("aria-pressed", "false");
  };
  const next = () => {
    const shown = inputs.findIndex((input) => input.checked);
    inputs[(shown + 1) % inputs.length].checked = true;
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    if (timer) return stop();
    next();
    timer = setInterval(next, 600);
    button.setAttribute("aria-pressed", "true");
  });
  for (const input of inputs) input.addEventListener("change", stop);
}
// Tables: sort by a column when its heading is pressed; a second press turns the order.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const compare = (a, b) => {
        const [x, y] = [key(a), key(b)];
        const numeric = x !== "" && y !== "" && !isNaN(x) && !isNaN(y);
        return numeric ? x - y : x.localeCompare(y, "en", { numeric: true });
      };
      const rows = [...body.rows].sort(compare);
      body.append(...(down ? rows.reverse() : rows));
    });
  });
}
// Copy: the text of an element, also of one that is folded away.
for (const button of document.querySelectorAll("[data-copy]")) {
  const said = button.parentElement.querySelector("output");
  button.hidden = false;
  button.addEventListener("click", async () => {
    const source = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.innerText || source.textContent);
      said.textContent = "Copied.";
    } catch {
      source.closest("details")?.setAttribute("open", "");
      getSelection().selectAllChildren(source);
      said.textContent = "Selected: copy it by the keyboard.";
    }
  });
}
