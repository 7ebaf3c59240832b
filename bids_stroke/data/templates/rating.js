"use strict";
// The rating of a session: kept in this browser, exported as a table. Nothing is sent anywhere.
(() => {
  const now = () => new Date().toISOString();
  const clean = (text) => String(text).replace(/\s+/g, " ").trim();

  const kept = (key) => {
    try {
      return JSON.parse(localStorage.getItem(key)) ?? {};
    } catch {
      return {};
    }
  };

  const keep = (key, value) => {
    try {
      localStorage.setItem(key, JSON.stringify(value));
      return true;
    } catch {
      return false;
    }
  };

  const save = (name, type, text) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };

  class Rating {
    constructor(root) {
      this.root = root;
      this.data = JSON.parse(root.querySelector("script").textContent);
      this.article = root.closest("article");
      this.find = (name) => root.querySelector(`[data-rating=${name}]`);
      this.marks = [...this.article.querySelectorAll("input[data-lesion]")];
      this.state = { rater: "", rating: "", comment: "", not: {}, missed: [], ...kept(this.data.key) };
      root.querySelector(".rating-on").hidden = false;
      root.querySelector(".no-script").hidden = true;
      for (const mark of this.marks) mark.closest("label").hidden = false;
      this.wire();
      this.show();
    }

    wire() {
      for (const name of ["rater", "comment"])
        this.find(name).addEventListener("input", (event) => this.change({ [name]: event.target.value }));
      for (const radio of this.root.querySelectorAll("input[type=radio]"))
        radio.addEventListener("change", () => this.change({ rating: radio.value, at: now() }));
      for (const mark of this.marks) mark.addEventListener("change", () => this.markLesion(mark));
      this.find("missed").addEventListener("click", () => this.addMissed());
      this.find("tsv").addEventListener("click", () => this.export("tsv"));
      this.find("json").addEventListener("click", () => this.export("json"));
      this.find("clear").addEventListener("click", () => this.clear());
    }

    change(part) {
      Object.assign(this.state, part);
      this.say(keep(this.data.key, this.state) ? "Kept in this browser." : "This browser keeps nothing: save the table.");
    }

    say(text) {
      this.find("said").textContent = text;
    }

    markLesion(mark) {
      const { lesion, mm } = mark.dataset;
      if (mark.checked) this.state.not[lesion] = { mm: mm ?? "", at: now() };
      else delete this.state.not[lesion];
      this.change({});
    }

    addMissed() {
      const mm = this.article.querySelector(".viewer")?.dataset.mm;
      if (!mm) return this.say("Start the viewer and put its crosshair on the lesion first.");
      this.change({ missed: [...this.state.missed, { mm, at: now() }] });
      this.show();
    }

    clear() {
      this.change({ rater: this.state.rater, rating: "", comment: "", not: {}, missed: [], at: "" });
      this.show();
      this.say("Cleared.");
    }

    show() {
      const { rater, rating, comment, not, missed } = this.state;
      this.find("rater").value = rater;
      this.find("comment").value = comment;
      for (const radio of this.root.querySelectorAll("input[type=radio]")) radio.checked = radio.value === rating;
      for (const mark of this.marks) mark.checked = mark.dataset.lesion in not;
      this.find("list").replaceChildren(...missed.map((one, i) => this.item(one, i)));
    }

    item({ mm }, number) {
      const item = document.createElement("li");
      const remove = document.createElement("button");
      const place = mm.split(",").map((x) => Math.round(x)).join(", ");
      item.textContent = `Missed at ${place} mm `;
      Object.assign(remove, { type: "button", className: "flicker", textContent: "Remove" });
      remove.setAttribute("aria-label", `Remove the mark at ${place} mm`);
      remove.addEventListener("click", () => {
        this.change({ missed: this.state.missed.filter((_, i) => i !== number) });
        this.show();
        this.find("missed").focus();
      });
      item.append(remove);
      return item;
    }

    rows() {
      const { rater, rating, comment, not, missed, at } = this.state;
      const common = { ...this.data.ids, rater: clean(rater) };
      const place = (mm) => {
        const [x_mm, y_mm, z_mm] = mm.split(",");
        return mm ? { x_mm, y_mm, z_mm } : {};
      };
      return [
        { ...common, rating, comment: clean(comment), timestamp: at || now() },
        ...Object.entries(not).map(([lesion, one]) => ({
          ...common, lesion, mark: "not_a_lesion", ...place(one.mm), timestamp: one.at,
        })),
        ...missed.map((one) => ({ ...common, mark: "missed", ...place(one.mm), timestamp: one.at })),
      ];
    }

    export(kind) {
      if (!clean(this.state.rater)) {
        this.find("rater").focus();
        return this.say("Say who rates first.");
      }
      if (!this.state.rating) {
        this.root.querySelector("input[type=radio]").focus();
        return this.say("Choose pass, doubtful or fail first.");
      }
      const { columns, dictionary, label } = this.data;
      const rater = clean(this.state.rater).replace(/[^A-Za-z0-9]/g, "") || "rater";
      const lines = this.rows().map((row) => columns.map((name) => row[name] || "n/a").join("\t"));
      const text = kind === "tsv"
        ? [columns.join("\t"), ...lines, ""].join("\n")
        : `${JSON.stringify(dictionary, null, 2)}\n`;
      const name = `${label}_desc-${rater}_ratings.${kind}`;
      save(name, kind === "tsv" ? "text/tab-separated-values" : "application/json", text);
      this.say(`Saved ${name}.`);
    }
  }

  for (const root of document.querySelectorAll(".rating")) root.rating = new Rating(root);
})();
