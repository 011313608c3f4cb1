// The gallery: only the cells in view exist, each with a canvas of its own.

import { h, clamp } from "./dom.js";
import { blend, buffer, shown, shownErrors, together, CORRECT } from "./paint.js";

const THUMB = 104; // CSS px a side
const GAP = 8;
const CAPTION = 20;

/** Labels and colours of a small picture of both hands: parts, or errors where either hand has one. */
function picture(entry, name, options, labels) {
  const both = (hands) => [0, 1].map(hands);
  if (options.errors && labels.truth) {
    const [left, right] = both((which) => shownErrors(entry, name, which, options, labels));
    return [left.map((code, i) => (right[i] > CORRECT ? right[i] : code || right[i])), options.colours.errors];
  }
  const [left, right] = both((which) => shown(entry, name, which, options, labels));
  return [together(left, right, entry.front, labels.in_front[0]), options.colours.parts];
}

export class Gallery {
  constructor(app) {
    this.app = app;
    this.cells = [];
    this.spacer = h("div", { class: "eb-spacer", role: "presentation" });
    this.empty = h("p", { class: "eb-empty", hidden: true });
    this.element = h(
      "div",
      { class: "eb-gallery", role: "listbox", tabindex: "0", "aria-label": "Samples", onscroll: () => app.redraw() },
      this.spacer,
      this.empty,
    );
    const pick = (event) => event.target.closest(".eb-cell")?.place;
    this.element.addEventListener("click", (event) => pick(event) !== undefined && app.move(pick(event)));
    this.element.addEventListener("dblclick", (event) => pick(event) !== undefined && app.set({ mode: "detail" }));
  }

  get panels() {
    return this.app.state.compare ? 2 : 1;
  }

  get columns() {
    return Math.max(1, Math.floor((this.element.clientWidth - GAP) / (this.panels * THUMB + GAP)));
  }

  /** Distance between columns, with the spare width distributed. */
  pitch(columns) {
    return (this.element.clientWidth - GAP) / columns;
  }

  get line() {
    return THUMB + CAPTION + GAP;
  }

  get linesShown() {
    return Math.max(1, Math.floor(this.element.clientHeight / this.line));
  }

  /** Scroll a position into view. */
  reveal(place) {
    const top = Math.floor(place / this.columns) * this.line;
    const { scrollTop, clientHeight } = this.element;
    if (top < scrollTop) this.element.scrollTop = top;
    else if (top + this.line + GAP > scrollTop + clientHeight)
      this.element.scrollTop = top + this.line + GAP - clientHeight;
  }

  draw() {
    const { rows, samples, pixels } = this.app;
    const columns = this.columns;
    const pitch = this.pitch(columns); // read before anything is written, or every cell would cost a layout
    this.spacer.style.height = `${Math.ceil(rows.length / columns) * this.line + GAP}px`;
    this.empty.hidden = rows.length > 0;
    this.empty.textContent = samples.count ? "No sample passes these filters." : "These predictions hold no sample.";
    const first = Math.floor(this.element.scrollTop / this.line) * columns;
    const last = Math.min(rows.length, first + (this.linesShown + 2) * columns);
    const shownPlaces = Array.from({ length: Math.max(0, last - first) }, (_, k) => first + k);
    this.resize(shownPlaces.length);
    shownPlaces.forEach((place, k) => this.drawCell(this.cells[k], place, columns, pitch));
    const next = Array.from(rows.slice(last, last + (last - first)));
    const wanted = [...shownPlaces.map((place) => rows[place]), ...next];
    pixels.want(wanted.map((i) => samples.rows[i]));
    const current = this.cells.find((cell) => cell.place === this.app.cursor);
    this.element.setAttribute("aria-activedescendant", current?.id ?? "");
  }

  resize(count) {
    while (this.cells.length < count) {
      const cell = h("div", { class: "eb-cell", role: "option", id: `${this.app.id}-cell${this.cells.length}` });
      cell.canvas = h("canvas", { "aria-hidden": "true" });
      cell.caption = h("span", { class: "eb-caption" });
      cell.append(cell.canvas, cell.caption);
      this.cells.push(cell);
      this.spacer.append(cell);
    }
    this.cells.forEach((cell, k) => {
      cell.hidden = k >= count;
      if (cell.hidden) cell.place = undefined;
    });
  }

  drawCell(cell, place, columns, pitch) {
    const { app } = this;
    const sample = app.rows[place];
    const [column, line] = [place % columns, Math.floor(place / columns)];
    cell.place = place;
    cell.style.transform = `translate(${Math.round(GAP + column * pitch)}px, ${GAP + line * this.line}px)`;
    cell.style.width = `${this.panels * THUMB}px`;
    const current = place === app.cursor;
    cell.classList.toggle("eb-current", current);
    cell.setAttribute("aria-selected", String(current));
    const entry = app.pixels.get(app.samples.rows[sample]);
    const key = [sample, entry?.size, entry?.small, app.look, this.panels].join();
    const text = app.caption(sample);
    if (cell.text !== text) {
      cell.text = cell.caption.textContent = text;
      cell.setAttribute("aria-label", `${app.samples.ids[sample]}, ${text}`);
      cell.title = app.samples.ids[sample];
    }
    if (cell.key === key) return;
    cell.key = key;
    this.paint(cell.canvas, entry);
  }

  paint(canvas, entry) {
    const { options, labels } = this.app;
    const size = entry?.size ?? 1;
    if (canvas.width !== this.panels * size || canvas.height !== size)
      Object.assign(canvas, { width: this.panels * size, height: size });
    const context = canvas.getContext("2d");
    canvas.classList.toggle("eb-waiting", !entry);
    if (!entry) return context.clearRect(0, 0, canvas.width, size);
    ["predicted", "other"].slice(0, this.panels).forEach((name, k) => {
      const { data, pixels } = buffer(size);
      const [label, colours] = options.overlay ? picture(entry, name, options, labels) : [null, []];
      blend(pixels, entry.image, label, colours, options.opacity, options.occluded ? 0.5 : 1);
      context.putImageData(data, k * size, 0);
    });
  }

  key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns };
    step.PageUp = -this.linesShown * this.columns;
    step.PageDown = -step.PageUp;
    const { rows, cursor } = this.app;
    if (event.key in step) this.app.move(clamp(cursor + step[event.key], 0, rows.length - 1));
    else if (event.key === "Home") this.app.move(0);
    else if (event.key === "End") this.app.move(rows.length - 1);
    else if (event.key === "Enter" && rows.length) this.app.set({ mode: "detail" });
    else return false;
    return true;
  }
}
