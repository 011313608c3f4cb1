// Toolbar and legend.

import { h, press } from "./dom.js";
import { savePicture, saveTable } from "./export.js";
import { command } from "./keys.js";

export const KEYS = [
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
    this.tabs = [
      tab("gallery", "Gallery"),
      tab("detail", "Detail"),
      labels.truth && tab("confusion", "Confusion"),
    ].filter(Boolean);
    this.sort = h("select", { "aria-label": "Sort by", onchange: () => this.sortBy(this.sort.value) });
    this.direction = h("button", { onclick: () => app.set({ descending: !app.state.descending }) });
    const toggle = (text, key) =>
      h("button", { "data-key": key, title: `${text} (${key})`, onclick: () => command(app, key) }, text);
    this.toggles = [
      toggle("Overlay", "o"),
      toggle("Outline", "l"),
      labels.truth && toggle("Errors", "e"),
      labels.front && toggle("Occluded only", "h"),
      labels.other && toggle("Compare", "c"),
    ].filter(Boolean);
    this.opacity = h("input", {
      type: "range",
      min: 0,
      max: 1,
      step: 0.05,
      "aria-label": "Opacity",
      class: "eb-opacity",
    });
    this.opacity.addEventListener("input", () => app.set({ opacity: Number(this.opacity.value) }));
    this.palette = h(
      "select",
      { class: "eb-palette", "aria-label": "Colours", onchange: () => app.set({ palette: this.palette.value }) },
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
        h("button", { title: "Save what is drawn as a picture", onclick: () => savePicture(app) }, "PNG"),
        h("button", { title: "Save the table of these samples", onclick: () => saveTable(app) }, "CSV"),
        h("button", { title: "Keys", "aria-label": "Help", onclick: () => app.help.toggle() }, "?"),
      ]),
    );
  }

  /** List the columns to sort by, the parts' IoU once it is counted. */
  offer() {
    const { samples, labels } = this.app;
    const key = `${samples.numbers.length} ${samples.counted > 0}`;
    if (this.offered === key) return;
    this.offered = key;
    const columns = samples.numbers.map(({ name, label }) => h("option", { value: name }, label));
    const parts = labels.groups.flatMap((finger) => finger.parts);
    const options = labels.truth
      ? parts.map((part) => h("option", { value: `part:${part}` }, `${labels.parts[part]} IoU`))
      : [];
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

export class Legend {
  constructor(app) {
    this.app = app;
    this.buttons = new Map();
    this.element = h("div", { class: "eb-legend", role: "group", "aria-label": "Parts shown" });
    app.labels.groups.forEach((finger, k) => {
      const all = h(
        "button",
        { class: "eb-finger", title: `key ${k + 1}`, onclick: () => app.toggleParts(finger.parts) },
        finger.name,
      );
      const single = finger.parts.length > 1 ? finger.parts : [];
      this.element.append(
        h(
          "span",
          { class: "eb-hand" },
          all,
          single.map((part) => this.button(part, finger.name)),
        ),
      );
      this.buttons.set(all, finger.parts);
      if (!single.length) all.prepend(h("i", { "data-part": finger.parts[0] }));
    });
    this.errors = h(
      "span",
      { class: "eb-hand eb-errors" },
      app.labels.errors.slice(1).map((name, k) => h("span", {}, h("i", { "data-error": k + 1 }), name)),
    );
    if (app.labels.truth) this.element.append(this.errors);
  }

  /** A button that shows or hides one part, named without its finger, whose name stands before it. */
  button(part, finger) {
    const { labels } = this.app;
    const name = labels.parts[part];
    const text = name.startsWith(`${finger} `) ? name.slice(finger.length + 1) : name;
    const button = h(
      "button",
      { "aria-label": name, "data-name": name, onclick: () => this.app.toggleParts([part]) },
      h("i", { "data-part": part }),
      text,
    );
    this.buttons.set(button, [part]);
    return button;
  }

  draw() {
    const { options, state } = this.app;
    const key = [state.hidden, state.palette, options.errors].join();
    if (key === this.drawn) return;
    this.drawn = key;
    for (const [button, parts] of this.buttons)
      press(
        button,
        parts.some((part) => !options.hidden.has(part)),
      );
    this.element.querySelectorAll("i").forEach((dot) => {
      const { part, error } = dot.dataset;
      const colour = part ? options.colours.parts[part] : options.colours.errors[error];
      dot.style.background = `rgb(${colour.join()})`;
    });
    this.errors.hidden = !options.errors;
  }
}
