// The widget: its state, its views, and the messages to and from the kernel.

import { Confusion } from "./confusion.js";
import { KEYS, Legend, Toolbar } from "./controls.js";
import { Detail } from "./detail.js";
import { h, number, share, typed } from "./dom.js";
import { Filters } from "./filters.js";
import { Gallery } from "./gallery.js";
import { Help } from "./help.js";
import { pressed } from "./keys.js";
import { Pixels } from "./pixels.js";
import { Samples } from "./samples.js";

const SYNC_MS = 120; // delay after the last change before the kernel is told
const START = {
  mode: "gallery",
  sort: "",
  descending: false,
  filters: {},
  opacity: 0.65,
  overlay: true,
  outline: false,
  errors: true, // of a sample in detail
  errorThumbs: false, // of the gallery's pictures
  occluded: false,
  compare: false,
  palette: "standard",
  hidden: [],
};
let made = 0;

class App {
  constructor(model, host) {
    this.model = model;
    this.id = `eb${made++}`;
    this.labels = model.get("_labels");
    this.samples = new Samples({ rows: [], ids: [], numbers: [], categories: [], tags: {} }, [], this.labels);
    this.rows = new Uint32Array(0);
    this.cursor = 0;
    this.live = false;
    this.state = { ...START, ...model.get("view") };
    this.pixels = new Pixels(
      this.labels,
      (message) => this.request(message),
      () => this.redraw(),
    );
    this.build(host);
    this.listen();
    this.showWorst().finally(() => this.request({ kind: "open" }));
  }

  build(host) {
    this.views = { gallery: new Gallery(this), detail: new Detail(this) };
    this.confusion = new Confusion(this);
    this.confusion.words = (cell) => this.cellWords(cell);
    if (this.labels.truth) this.views.confusion = this.confusion;
    this.toolbar = new Toolbar(this);
    this.filters = new Filters(this);
    this.legend = new Legend(this);
    this.help = new Help(this, "Keys", KEYS);
    this.fault = h("p", { class: "eb-fault", role: "alert", hidden: true });
    this.live_region = h("span", { class: "eb-hidden", "aria-live": "polite" });
    const attributes = { class: "eb-root", tabindex: "0", role: "application", "data-lm-suppress-shortcuts": "true" };
    attributes["aria-label"] = `Error browser: ${this.labels.name}`;
    const views = Object.values(this.views).map((view) => view.element);
    this.main = h("div", { class: "eb-main" }, views);
    this.element = h("div", attributes, this.toolbar.element, this.filters.element, this.fault, this.main);
    this.element.append(this.legend.element, this.help.element, this.live_region);
    host.append(this.element);
  }

  listen() {
    this.element.addEventListener("keydown", (event) => pressed(this, event));
    this.watch = new ResizeObserver(() => this.redraw());
    this.watch.observe(this.main);
    this.handlers = [
      ["msg:custom", (message, buffers) => this.receive(message, buffers)],
      ["change:selected", () => this.goTo(this.model.get("selected"))],
      ["change:view", () => this.adopt(this.model.get("view"))],
    ];
    for (const [name, handler] of this.handlers) this.model.on(name, handler);
  }

  get document() {
    return this.element.getRootNode();
  }

  close() {
    for (const [name, handler] of this.handlers) this.model.off(name, handler);
    this.watch.disconnect();
    clearTimeout(this.timer);
  }

  // ---- samples and pixels -----------------------------------------------------------------------------------------

  /** Show the worst samples with small images, from the widget's state; needs no kernel. */
  async showWorst() {
    const [header, packed] = [this.model.get("_worst"), this.model.get("_worst_bytes")];
    if (!packed?.byteLength) return;
    const stream = new Blob([typed(packed, Uint8Array)]).stream().pipeThrough(new DecompressionStream("deflate"));
    const bytes = await new Response(stream).arrayBuffer();
    if (this.live) return;
    let start = 0;
    const buffers = header.lengths.map((length) => bytes.slice(start, (start += length)));
    const [columns, pixels] = [
      buffers.slice(0, header.columns_end),
      buffers.slice(header.columns_end, header.pixels_end),
    ];
    this.use(new Samples(header, columns, this.labels));
    this.pixels.receive(header.rows, pixels, header.size, true);
    if (this.labels.truth) {
      const counts = buffers.slice(header.pixels_end);
      if (this.labels.other) counts.push(new ArrayBuffer(0));
      this.samples.addCounts(0, this.samples.count, counts);
    }
  }

  use(samples) {
    this.samples = samples;
    const first = samples.numbers[0];
    if (!this.state.sort && first) Object.assign(this.state, { sort: first.name, descending: first.descending });
    this.reselect(this.model.get("selected"));
  }

  request(message) {
    this.model.send(message, undefined, undefined);
  }

  /** Handle a message of the kernel; every view of the widget gets the answers to all of them. */
  receive(message, buffers) {
    if (message.kind === "samples" && !this.live) {
      this.live = true;
      this.use(new Samples(message.header, buffers, this.labels));
      if ((this.labels.truth || this.labels.other) && this.samples.count) this.request({ kind: "counts", start: 0 });
    } else if (message.kind === "pixels") {
      this.pixels.receive(message.rows, buffers);
    } else if (message.kind === "counts" && this.live) {
      this.receiveCounts(message, buffers);
    } else if (message.kind === "tags") {
      this.samples.tags = message.tags;
      const byTag = Object.values(this.state.filters).some((filter) => filter.kind === "tag");
      if (byTag) this.reselect(this.id_at(this.cursor));
      this.redraw();
    } else if (message.kind === "fault") {
      this.fault.textContent = message.text;
      this.fault.hidden = false;
    }
  }

  receiveCounts({ start, stop }, buffers) {
    if (!this.samples.addCounts(start, stop, buffers)) return;
    if (stop < this.samples.count) this.request({ kind: "counts", start: stop });
    else if (this.usesCounts()) this.reselect(this.id_at(this.cursor));
    this.redraw();
  }

  /** Whether order or filters depend on the confusion counts, which come after opening. */
  usesCounts() {
    const keys = [
      this.state.sort,
      ...Object.values(this.state.filters).map((filter) => `${filter.kind}: ${filter.name}`),
    ];
    return keys.some((key) => /^(part|cell|disagreement)|disagreement$/.test(key));
  }

  // ---- state ------------------------------------------------------------------------------------------------------

  set(changes) {
    Object.assign(this.state, changes);
    this.fault.hidden = true;
    if (["sort", "descending", "filters"].some((name) => name in changes)) this.reselect(this.id_at(this.cursor));
    if ("compare" in changes) this.sortForCompare();
    if (changes.mode) this.focus();
    this.sync();
    this.redraw();
  }

  /** Sort by the models' difference while comparing, and restore the order afterwards. */
  sortForCompare() {
    const difference = this.samples.column("difference") ?? this.samples.column("disagreement");
    if (this.state.compare && difference) {
      this.before = { sort: this.state.sort, descending: this.state.descending };
      this.set({ sort: difference.name, descending: difference.descending });
    } else if (!this.state.compare && this.before) {
      this.set(this.before);
      this.before = null;
    }
  }

  adopt(view) {
    if (JSON.stringify(view) === this.sent) return;
    this.set(view);
  }

  filter(slot, filter) {
    const { [slot]: _, ...others } = this.state.filters;
    this.set({ filters: filter ? { ...others, [slot]: filter } : others });
  }

  /** Filter the samples with a confusion, most pixels first. */
  showCell(cell) {
    const filters = { ...this.state.filters, cell: { kind: "cell", cell } };
    this.set({ filters, sort: `cell:${cell}`, descending: true, mode: "gallery" });
    this.move(0);
  }

  toggleParts(parts) {
    const hidden = new Set(this.state.hidden);
    const show = parts.every((part) => hidden.has(part));
    for (const part of parts) show ? hidden.delete(part) : hidden.add(part);
    this.set({ hidden: [...hidden].sort((a, b) => a - b) });
  }

  reselect(id) {
    const filters = Object.values(this.state.filters);
    if (this.state.sort.startsWith("cell:") && !this.state.filters.cell) {
      const first = this.samples.numbers[0];
      Object.assign(this.state, { sort: first.name, descending: first.descending });
    }
    this.rows = this.samples.select(filters, this.state.sort, this.state.descending);
    this.others = JSON.stringify(filters.filter((filter) => filter.kind !== "cell"));
    const sample = this.samples.at.get(id);
    this.cursor = sample === undefined ? 0 : Math.max(0, this.rows.indexOf(sample));
    this.views.gallery.reveal(this.cursor);
    this.sync();
    this.redraw();
  }

  /** The samples that pass every filter but the one on a confusion. */
  otherRows() {
    const filters = Object.values(this.state.filters).filter((filter) => filter.kind !== "cell");
    return this.samples.select(filters, "", false);
  }

  id_at(place) {
    return this.samples.ids[this.rows[place]] ?? "";
  }

  move(place) {
    if (!this.rows.length) return;
    this.cursor = place;
    this.views.gallery.reveal(place);
    if (this.state.mode === "gallery") this.announce(`${this.id_at(place)}, ${this.caption(this.rows[place])}`);
    this.sync();
    this.redraw();
  }

  goTo(id) {
    const sample = this.samples.at.get(id);
    const place = sample === undefined ? -1 : this.rows.indexOf(sample);
    if (place >= 0 && place !== this.cursor) this.move(place);
  }

  /** Send the selection, the filtered rows and the view to the kernel, after a short delay. */
  sync() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      if (!this.live) return;
      this.sent = JSON.stringify(this.state);
      if (this.sentRows !== this.rows) this.model.set("_rows", new DataView(this.rows.slice().buffer));
      this.sentRows = this.rows;
      this.model.set("selected", this.id_at(this.cursor));
      this.model.set("view", JSON.parse(this.sent));
      this.model.save_changes();
    }, SYNC_MS);
  }

  /** The state that the key `e` toggles; the gallery has its own. */
  get errorFlag() {
    return this.state.mode === "gallery" ? "errorThumbs" : "errors";
  }

  // ---- what is drawn ----------------------------------------------------------------------------------------------

  redraw() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      if (this.main.clientWidth) this.draw();
    });
  }

  draw() {
    const { state, labels } = this;
    const colours = labels.palettes[state.palette] ?? Object.values(labels.palettes)[0];
    const { opacity, overlay, outline, occluded } = state;
    this.options = { opacity, overlay, outline, occluded, colours };
    this.options.errors = state[this.errorFlag];
    this.options.hidden = new Set(state.hidden);
    this.look = [opacity, overlay, occluded, this.options.errors, state.palette, state.hidden].join();
    this.toolbar.draw();
    this.filters.draw();
    this.legend.draw();
    const mode = state.mode in this.views ? state.mode : "gallery";
    for (const [name, view] of Object.entries(this.views)) view.element.hidden = name !== mode;
    this.legend.element.hidden = mode === "confusion";
    this.views[mode].draw();
  }

  /** The caption of a gallery cell: the value that the samples are sorted by. */
  caption(sample) {
    const { sort } = this.state;
    if (!sort) return "";
    const value = this.samples.values(sort)[sample];
    const text = sort.startsWith("cell:") ? `${value} px` : sort === "occluded" ? share(value) : number(value);
    const compared = this.state.compare && this.samples.column("compared");
    const both = compared ? [number(this.samples.numbers[0].values[sample]), number(compared.values[sample])] : [];
    const tags = this.samples.tags[this.samples.ids[sample]] ?? [];
    return [text, ...both, ...tags].join(" · ");
  }

  status() {
    const [left, all] = [this.rows.length, this.labels.count];
    if (!this.live) {
      if (this.samples.count === all) return all ? `all ${all} samples` : "no samples";
      return `the ${this.samples.count} worst of ${all} samples; the others need a running kernel`;
    }
    const counting = this.labels.truth && this.samples.counted < all ? `, counted ${this.samples.counted}` : "";
    const sides =
      this.state.compare && this.state.mode === "gallery"
        ? `; left ${this.labels.name}, right ${this.labels.other}`
        : "";
    return `${left === all ? all : `${left} of ${all}`} sample${all === 1 ? "" : "s"}${counting}${sides}`;
  }

  cellWords(cell) {
    const classes = this.labels.parts.length;
    const [truth, predicted] = [Math.floor(cell / classes) % classes, cell % classes];
    const matrix = this.labels.matrices[Math.floor(cell / classes ** 2)];
    return `${matrix}: ${this.labels.parts[truth]} called ${this.labels.parts[predicted]}`;
  }

  /** The tags to offer: the usual ones and those in use. */
  knownTags() {
    return [...new Set([...this.labels.tags, ...Object.values(this.samples.tags).flat()])];
  }

  dark() {
    return getComputedStyle(this.element).color;
  }

  announce(text) {
    this.live_region.textContent = text;
  }

  // ---- focus ------------------------------------------------------------------------------------------------------

  focus() {
    this.element.focus({ preventScroll: true });
  }

  focused() {
    return this.element.contains(this.document.activeElement);
  }
}

function render({ model, el }) {
  const app = new App(model, el);
  return () => app.close();
}

export default { render };
