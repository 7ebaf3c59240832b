"use strict";
// The table of the cohort: rows come from JSON, a page of them is in the document at a time.
(() => {
  const source = document.getElementById("cohort-data");
  if (!source) return;
  const { columns, rows } = JSON.parse(source.textContent);
  const PAGE = 50;
  const at = (id) => document.getElementById(id);
  const table = at("cohort-table"), form = document.querySelector(".filters");
  const place = Object.fromEntries(columns.map((column, i) => [column.title, i]));
  const texts = rows.map((row) => row.filter((v) => v !== null).join(" ").toLowerCase());
  const collator = new Intl.Collator("en", { numeric: true });
  let order = rows.map((_, i) => i), page = 0, sorted = null, down = false;

  const addressOf = (label) => `${label.split("_")[0]}.html#${label}`;
  const shown = (value, kind) => {
    if (value === null) return kind === "list" ? "none" : "n/a";
    if (kind === "volume") return value.toFixed(value >= 10 ? 1 : value >= 0.1 || !value ? 2 : 3);
    if (kind === "share") return value.toFixed(3);
    return kind === "number" && !Number.isInteger(value) ? String(+value.toFixed(3)) : String(value);
  };
  const chip = (text) => {
    const span = document.createElement("span");
    span.className = "chip";
    span.textContent = text.replaceAll("_", " ");
    return span;
  };
  const cell = (value, { kind }) => {
    const made = document.createElement(kind === "label" ? "th" : "td");
    if (kind === "label") {
      const link = document.createElement("a");
      made.scope = "row";
      link.href = addressOf(value);
      link.textContent = value;
      made.append(link);
    } else if (kind === "list" && value !== null) {
      made.className = "chips";
      for (const text of value.split(",")) made.append(chip(text), " ");
    } else made.textContent = shown(value, kind);
    return made;
  };
  const compare = (a, b) => {
    const [x, y] = [rows[a][sorted], rows[b][sorted]];
    if (x === null || y === null) return (x === null) - (y === null); // nothing comes last
    const by = typeof x === "number" && typeof y === "number" ? x - y : collator.compare(x, y);
    return down ? -by : by;
  };
  const passes = (row, i, words, kind, low, high) => {
    const volume = row[place["Volume (mL)"]], lesions = row[place.Lesions];
    if (kind === "warning" && !row[place.Warnings]) return false;
    if (kind === "outlier" && row[place["Outlier in"]] === null) return false;
    if (kind === "lesion" && !lesions) return false;
    if (kind === "none" && lesions) return false;
    if ((low !== "" && volume < +low) || (high !== "" && volume > +high)) return false;
    return words.every((word) => texts[i].includes(word));
  };
  const choose = () => {
    const words = at("filter-text").value.toLowerCase().split(/\s+/).filter(Boolean);
    const [kind, low, high] = ["kind", "low", "high"].map((name) => at(`filter-${name}`).value);
    order = [];
    rows.forEach((row, i) => {
      if (passes(row, i, words, kind, low, high)) order.push(i);
    });
    if (sorted !== null) order.sort(compare);
    page = 0;
    draw();
  };
  const draw = () => {
    const last = Math.max(Math.ceil(order.length / PAGE) - 1, 0);
    page = Math.min(page, last);
    const visible = order.slice(page * PAGE, (page + 1) * PAGE);
    const body = document.createDocumentFragment();
    for (const i of visible) {
      const line = document.createElement("tr");
      line.append(...columns.map((column, j) => cell(rows[i][j], column)));
      body.append(line);
    }
    table.tBodies[0].replaceChildren(body);
    const range = order.length ? `${page * PAGE + 1} to ${page * PAGE + visible.length} of ` : "";
    const left = order.length < rows.length ? ` (${rows.length} in all)` : "";
    at("shown").textContent = `Sessions ${range}${order.length}${left}`;
    at("first").disabled = at("previous").disabled = page === 0;
    at("next").disabled = at("last").disabled = page === last;
  };
  const turn = (to) => {
    page = to;
    draw();
  };
  const head = document.createElement("tr");
  columns.forEach((column, j) => {
    const made = document.createElement("th"), button = document.createElement("button");
    made.scope = "col";
    button.type = "button";
    button.textContent = column.title;
    made.append(button);
    button.addEventListener("click", () => {
      down = sorted === j && !down;
      sorted = j;
      for (const other of head.cells) other.removeAttribute("aria-sort");
      made.setAttribute("aria-sort", down ? "descending" : "ascending");
      order.sort(compare);
      turn(0);
    });
    head.append(made);
  });
  table.tHead.append(head);
  form.addEventListener("input", choose);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(choose));
  at("first").addEventListener("click", () => turn(0));
  at("previous").addEventListener("click", () => turn(page - 1));
  at("next").addEventListener("click", () => turn(page + 1));
  at("last").addEventListener("click", () => turn(Infinity));
  at("download").addEventListener("click", () => {
    const plain = (value) => (value === null ? "n/a" : String(value).replace(/[\t\n\r]/g, " "));
    const lines = [columns.map((column) => column.title), ...order.map((i) => rows[i])];
    const text = lines.map((line) => line.map(plain).join("\t")).join("\n") + "\n";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/tab-separated-values" }));
    link.download = "group_sessions_shown.tsv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href));
  });
  form.hidden = document.querySelector(".pager").hidden = false;
  draw();
})();
