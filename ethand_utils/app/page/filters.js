// The filters: fields to choose them, a chip for each with the number of its samples.

import { h } from "./dom.js";

export class Filters {
  constructor(app) {
    this.app = app;
    this.form = h("div", { class: "eb-bar eb-filters", role: "group", "aria-label": "Filters" });
    this.chips = h("div", { class: "eb-chips", role: "group", "aria-label": "Active filters" });
    this.status = h("span", { class: "eb-status", role: "status", "aria-live": "polite" });
    this.element = h("div", {}, this.form, h("div", { class: "eb-bar eb-active" }, this.status, this.chips));
  }

  /** Fields for the columns of the samples. */
  build() {
    const { app } = this;
    const key = [app.samples.categories.length, app.samples.count, app.knownTags()].join();
    if (this.built === key) return;
    this.built = key;
    const fields = app.samples.categories.map((column) => this.category(column));
    if (app.labels.truth) fields.push(this.part());
    if (app.samples.column("occluded")) fields.push(this.range("occluded", "occluded"));
    if (app.samples.numbers.length) fields.push(this.score());
    fields.push(this.tag(), this.text());
    this.form.replaceChildren(...fields);
  }

  choice(label, slot, options, filter) {
    const select = h("select", { "aria-label": label }, h("option", { value: "" }, `${label}: any`), options);
    select.addEventListener("change", () => this.app.filter(slot, select.value === "" ? null : filter(select.value)));
    select.dataset.slot = slot;
    return select;
  }

  category({ name, label, levels }) {
    const slot = `category:${name}`;
    const make = (value) => ({ kind: "category", name, value });
    if (levels.length <= 40)
      return this.choice(
        label,
        slot,
        levels.map((level) => h("option", {}, level)),
        make,
      );
    const list = h(
      "datalist",
      { id: `${this.app.id}-${name}` },
      levels.map((level) => h("option", {}, level)),
    );
    const input = h("input", { list: list.id, placeholder: label, "aria-label": label, size: 12, "data-slot": slot });
    input.addEventListener("change", () =>
      this.app.filter(slot, levels.includes(input.value) ? make(input.value) : null),
    );
    return h("span", {}, input, list);
  }

  part() {
    const { labels } = this.app;
    const options = labels.groups
      .flatMap((finger) => finger.parts)
      .map((part) => h("option", { value: part }, labels.parts[part]));
    return this.choice("part present", "part", options, (value) => ({ kind: "part", part: Number(value) }));
  }

  tag() {
    const options = this.app.knownTags().map((tag) => h("option", {}, tag));
    return this.choice("tag", "tag", options, (value) => ({ kind: "tag", value }));
  }

  text() {
    const input = h("input", {
      type: "search",
      placeholder: "id contains",
      "aria-label": "Id contains",
      size: 12,
      "data-slot": "text",
    });
    input.addEventListener("input", () =>
      this.app.filter("text", input.value ? { kind: "text", value: input.value } : null),
    );
    return input;
  }

  /** Two numbers between which a column must be. */
  range(name, label, before = null) {
    const field = (text) =>
      h("input", { type: "number", min: -1, max: 1, step: 0.05, "aria-label": `${label} ${text}`, placeholder: text });
    const [low, high] = [field("from"), field("to")];
    const changed = () => {
      const column = before ? before.value : name;
      const bound = (input, open) => (input.value === "" ? open : Number(input.value));
      const on = low.value !== "" || high.value !== "";
      const filter = { kind: "range", name: column, low: bound(low, -1e9), high: bound(high, 1e9) };
      this.app.filter(`range:${before ? "score" : name}`, on ? filter : null);
    };
    for (const input of [low, high, before].filter(Boolean)) input.addEventListener("input", changed);
    low.dataset.slot = high.dataset.slot = `range:${before ? "score" : name}`;
    return h("span", { class: "eb-range" }, before ?? h("span", { class: "eb-word" }, label), low, high);
  }

  score() {
    const columns = this.app.samples.numbers.filter(({ name }) => name !== "occluded");
    const select = h(
      "select",
      { "aria-label": "Score" },
      columns.map(({ name, label }) => h("option", { value: name }, label)),
    );
    return this.range("score", "score", select);
  }

  /** The text of a filter's chip. */
  words(filter) {
    const { labels, samples, confusion } = this.app;
    const label = (name) => samples.column(name)?.label ?? name;
    if (filter.kind === "category") return `${samples.category(filter.name)?.label}: ${filter.value}`;
    if (filter.kind === "range") {
      const [low, high] = [filter.low > -1e9 ? `${filter.low} ≤ ` : "", filter.high < 1e9 ? ` ≤ ${filter.high}` : ""];
      return `${low}${label(filter.name)}${high}`;
    }
    if (filter.kind === "part") return `${labels.parts[filter.part]} present`;
    if (filter.kind === "cell") return confusion.words(filter.cell);
    return filter.kind === "text" ? `id: ${filter.value}` : `tag: ${filter.value}`;
  }

  draw() {
    const { app } = this;
    this.build();
    const slots = Object.keys(app.state.filters);
    const key = [
      JSON.stringify(app.state.filters),
      app.samples.count,
      app.samples.counted,
      JSON.stringify(app.samples.tags),
    ].join();
    if (this.drawn !== key) {
      this.drawn = key;
      this.chips.replaceChildren(...slots.map((slot) => this.chip(slot)));
      for (const field of this.form.querySelectorAll("[data-slot]"))
        if (!slots.includes(field.dataset.slot) && field !== app.document.activeElement) field.value = "";
    }
    this.status.textContent = app.status();
  }

  chip(slot) {
    const filter = this.app.state.filters[slot];
    const words = this.words(filter);
    const remove = () => {
      this.app.filter(slot, null);
      this.app.focus();
    };
    const count = this.app.samples.number(filter);
    return h(
      "button",
      { class: "eb-chip", "aria-label": `Remove filter ${words}, ${count} samples`, onclick: remove },
      `${words} `,
      h("b", {}, count),
      " ×",
    );
  }
}
