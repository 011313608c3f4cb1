// Everything that is pressed, chosen or typed: toolbar, filters with their chips, legend, help.

import { h, press } from "./dom.js";

const KEYS = [
  ["arrows, Home, End", "move through samples (PageUp, PageDown: farther)"],
  ["Enter / Escape", "open the sample / back to the gallery"],
  ["[ and ]", "opacity"],
  ["o", "overlay on or off"],
  ["l", "outlines only"],
  ["e", "error map"],
  ["h", "hidden (occluded) pixels only"],
  ["1 … 6", "show or hide thumb, index, middle, ring, pinky, palm"],
  ["c", "compare with the other model"],
  ["g, d, m", "gallery, detail, matrix of confusion"],
  ["+ − 0", "zoom in, out, whole"],
  ["? or Escape", "this help, away"],
];

/** A group of labelled elements in a bar. */
const group = (...children) => h("span", { class: "eb-group" }, ...children);

export class Toolbar {
  constructor(app) {
    this.app = app;
    const { labels } = app;
    const tab = (mode, text) => h("button", { role: "tab", onclick: () => app.set({ mode }), "data-mode": mode }, text);
    this.tabs = [tab("gallery", "Gallery"), tab("detail", "Detail"), labels.truth && tab("confusion", "Confusion")].filter(Boolean);
    this.sort = h("select", { "aria-label": "Sort by", onchange: () => this.sortBy(this.sort.value) });
    this.direction = h("button", { onclick: () => app.set({ descending: !app.state.descending }) });
    const toggle = (text, key) =>
      h("button", { "data-key": key, title: `${text} (${key})`, onclick: () => app.command(key) }, text);
    this.toggles = [
      toggle("Overlay", "o"),
      toggle("Outline", "l"),
      labels.truth && toggle("Errors", "e"),
      labels.front && toggle("Occluded only", "h"),
      labels.other && toggle("Compare", "c"),
    ].filter(Boolean);
    this.opacity = h("input", { type: "range", min: 0, max: 1, step: 0.05, "aria-label": "Opacity", class: "eb-opacity" });
    this.opacity.addEventListener("input", () => app.set({ opacity: Number(this.opacity.value) }));
    this.palette = h(
      "select",
      { "aria-label": "Colours", onchange: () => app.set({ palette: this.palette.value }) },
      Object.keys(labels.palettes).map((name) => h("option", {}, name)),
    );
    this.element = h(
      "div",
      { class: "eb-bar", role: "toolbar", "aria-label": "Views and drawing" },
      h("span", { class: "eb-tabs", role: "tablist" }, this.tabs),
      group(h("span", { class: "eb-word" }, "Sort"), this.sort, this.direction),
      group(this.toggles),
      group(h("label", { class: "eb-word" }, "Opacity ", this.opacity)),
      group(this.palette),
      h("span", { class: "eb-group eb-end" }, [
        h("button", { title: "Save what is drawn as a picture", onclick: () => app.savePicture() }, "PNG"),
        h("button", { title: "Save the table of these samples", onclick: () => app.saveTable() }, "CSV"),
        h("button", { title: "Keys", "aria-label": "Help", onclick: () => app.help.toggle() }, "?"),
      ]),
    );
  }

  /** Offer what there is to sort by; the parts' IoU once they are counted. */
  offer() {
    const { samples, labels } = this.app;
    const key = `${samples.numbers.length} ${samples.counted > 0}`;
    if (this.offered === key) return;
    this.offered = key;
    const columns = samples.numbers.map(({ name, label }) => h("option", { value: name }, label));
    const parts = labels.groups.flatMap((finger) => finger.parts);
    const options = labels.truth ? parts.map((part) => h("option", { value: `part:${part}` }, `${labels.parts[part]} IoU`)) : [];
    this.sort.replaceChildren(...columns, ...(options.length ? [h("optgroup", { label: "one part" }, options)] : []));
    this.cells = h("option", { hidden: true }, "pixels so confused");
    this.sort.append(this.cells);
  }

  sortBy(key) {
    const column = this.app.samples.column(key);
    this.app.set({ sort: key, descending: column ? column.descending : false });
  }

  draw() {
    const { state, element } = this.app;
    this.offer();
    for (const tab of this.tabs) tab.setAttribute("aria-selected", String(tab.dataset.mode === state.mode));
    const flags = { o: "overlay", l: "outline", e: this.app.errorFlag, h: "occluded", c: "compare" };
    for (const button of this.toggles) press(button, state[flags[button.dataset.key]]);
    if (state.sort.startsWith("cell:")) this.cells.value = state.sort;
    this.cells.hidden = !state.sort.startsWith("cell:");
    this.sort.value = state.sort;
    this.direction.textContent = state.descending ? "highest first" : "lowest first";
    this.opacity.value = state.opacity;
    this.palette.value = state.palette;
    element.classList.toggle("eb-comparing", Boolean(state.compare));
  }
}

export class Filters {
  constructor(app) {
    this.app = app;
    this.form = h("div", { class: "eb-bar eb-filters", role: "group", "aria-label": "Filters" });
    this.chips = h("div", { class: "eb-chips", role: "group", "aria-label": "Active filters" });
    this.status = h("span", { class: "eb-status", role: "status", "aria-live": "polite" });
    this.element = h("div", {}, this.form, h("div", { class: "eb-bar eb-active" }, this.status, this.chips));
  }

  /** Fields for what the samples have. */
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
    if (levels.length <= 40) return this.choice(label, slot, levels.map((level) => h("option", {}, level)), make);
    const list = h("datalist", { id: `${this.app.id}-${name}` }, levels.map((level) => h("option", {}, level)));
    const input = h("input", { list: list.id, placeholder: label, "aria-label": label, size: 12, "data-slot": slot });
    input.addEventListener("change", () => this.app.filter(slot, levels.includes(input.value) ? make(input.value) : null));
    return h("span", {}, input, list);
  }

  part() {
    const { labels } = this.app;
    const options = labels.groups.flatMap((finger) => finger.parts).map((part) => h("option", { value: part }, labels.parts[part]));
    return this.choice("part present", "part", options, (value) => ({ kind: "part", part: Number(value) }));
  }

  tag() {
    const options = this.app.knownTags().map((tag) => h("option", {}, tag));
    return this.choice("tag", "tag", options, (value) => ({ kind: "tag", value }));
  }

  text() {
    const input = h("input", { type: "search", placeholder: "id contains", "aria-label": "Id contains", size: 12, "data-slot": "text" });
    input.addEventListener("input", () => this.app.filter("text", input.value ? { kind: "text", value: input.value } : null));
    return input;
  }

  /** Two numbers between which a column must be. */
  range(name, label, before = null) {
    const field = (text) => h("input", { type: "number", min: -1, max: 1, step: 0.05, "aria-label": `${label} ${text}`, placeholder: text });
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
    const select = h("select", { "aria-label": "Score" }, columns.map(({ name, label }) => h("option", { value: name }, label)));
    return this.range("score", "score", select);
  }

  /** What a filter says, for its chip. */
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
    const key = [JSON.stringify(app.state.filters), app.samples.count, app.samples.counted, JSON.stringify(app.samples.tags)].join();
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
    return h("button", { class: "eb-chip", "aria-label": `Remove filter ${words}, ${count} samples`, onclick: remove }, `${words} `, h("b", {}, count), " ×");
  }
}

export class Legend {
  constructor(app) {
    this.app = app;
    this.buttons = new Map();
    this.element = h("div", { class: "eb-legend", role: "group", "aria-label": "Parts shown" });
    app.labels.groups.forEach((finger, k) => {
      const all = h("button", { class: "eb-finger", title: `key ${k + 1}`, onclick: () => app.toggleParts(finger.parts) }, finger.name);
      const single = finger.parts.length > 1 ? finger.parts : [];
      this.element.append(h("span", { class: "eb-hand" }, all, single.map((part) => this.button(part, finger.name))));
      this.buttons.set(all, finger.parts);
      if (!single.length) all.prepend(h("i", { "data-part": finger.parts[0] }));
    });
    this.errors = h("span", { class: "eb-hand eb-errors" }, app.labels.errors.slice(1).map((name, k) => h("span", {}, h("i", { "data-error": k + 1 }), name)));
    if (app.labels.truth) this.element.append(this.errors);
  }

  /** A button that shows or hides one part; its name without the finger's, which stands before it. */
  button(part, finger) {
    const { labels } = this.app;
    const name = labels.parts[part];
    const text = name.startsWith(`${finger} `) ? name.slice(finger.length + 1) : name;
    const button = h("button", { "aria-label": name, "data-name": name, onclick: () => this.app.toggleParts([part]) }, h("i", { "data-part": part }), text);
    this.buttons.set(button, [part]);
    return button;
  }

  draw() {
    const { options, state } = this.app;
    const key = [state.hidden, state.palette, options.errors].join();
    if (key === this.drawn) return;
    this.drawn = key;
    for (const [button, parts] of this.buttons) press(button, parts.some((part) => !options.hidden.has(part)));
    this.element.querySelectorAll("i").forEach((dot) => {
      const { part, error } = dot.dataset;
      const colour = part ? options.colours.parts[part] : options.colours.errors[error];
      dot.style.background = `rgb(${colour.join()})`;
    });
    this.errors.hidden = !options.errors;
  }
}

export class Help {
  constructor(app) {
    const rows = KEYS.flatMap(([key, text]) => [h("dt", {}, key), h("dd", {}, text)]);
    const close = h("button", { onclick: () => this.toggle() }, "Close");
    this.app = app;
    this.element = h("div", { class: "eb-help", role: "dialog", "aria-label": "Keys", tabindex: "-1", hidden: true }, h("b", {}, "Keys"), h("dl", {}, rows), close);
  }

  toggle(on = this.element.hidden) {
    this.element.hidden = !on;
    if (on) this.element.focus();
    else this.app.focus();
  }
}
