// One sample: input, prediction, truth and error map of both hands, with one zoom for all panels.

import { h, clamp, fit, number, share } from "./dom.js";
import { blend, buffer, hand, outlines, shown, shownErrors, errorCodes } from "./paint.js";

const ZOOM = [1, 24];

export class Detail {
  constructor(app) {
    this.app = app;
    this.whole = { scale: 1, x: 0, y: 0 }; // x, y: top left corner of the visible region, as a fraction of the image
    this.zoom = { ...this.whole };
    this.grid = h("div", { class: "eb-panels" });
    this.facts = h("dl", { class: "eb-facts" });
    this.tags = h("div", { class: "eb-tags", role: "group", "aria-label": "Tags of this sample" });
    this.heading = h("h3", { class: "eb-heading" });
    this.under = h("p", { class: "eb-under", "aria-live": "off" });
    const side = h("aside", { class: "eb-side" }, this.heading, this.facts, this.tags);
    this.element = h("div", { class: "eb-detail" }, h("div", { class: "eb-stage" }, this.grid, this.under), side);
    this.panels = [];
  }

  /** Columns of panels: name, what it draws, and of whose prediction. */
  kinds() {
    const { labels, state } = this.app;
    const other = state.compare && labels.other;
    const kinds = [
      ["input", "image"],
      [other ? labels.name : "prediction", "parts", "predicted"],
    ];
    if (other) kinds.push([labels.other, "parts", "other"]);
    if (labels.truth) {
      kinds.push(["truth", "parts", "truth"]);
      if (state.errors) kinds.push([other ? `errors, ${labels.name}` : "error map", "errors", "predicted"]);
      if (state.errors && other) kinds.push([`errors, ${labels.other}`, "errors", "other"]);
    }
    return kinds;
  }

  /** Panels for every hand and kind, rebuilt only when the kinds change. */
  build() {
    const [kinds, { labels }] = [this.kinds(), this.app];
    const key = JSON.stringify(kinds);
    if (this.built === key) return;
    this.built = key;
    this.panels = [];
    this.grid.replaceChildren();
    this.grid.style.setProperty("--eb-columns", kinds.length);
    labels.hands.forEach((name, which) => {
      kinds.forEach(([title, kind, source]) => {
        const canvas = h("canvas", {
          role: "img",
          "aria-label": `${title}, ${name} hand`,
          "data-panel": `${title} ${name}`,
        });
        const panel = { canvas, kind, source, which };
        this.listen(panel);
        this.panels.push(panel);
        this.grid.append(
          h(
            "figure",
            {},
            h("figcaption", { title }, h("b", {}, title), kind === "image" ? ` ${name} hand` : ""),
            canvas,
          ),
        );
      });
    });
  }

  listen(panel) {
    const { canvas } = panel;
    const at = (event) => [event.offsetX / canvas.clientWidth, event.offsetY / canvas.clientHeight];
    canvas.addEventListener("wheel", (event) => {
      if (!this.app.focused()) return; // a notebook is being scrolled
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY / 300), ...at(event));
    });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.drag = at(event);
    });
    canvas.addEventListener("pointerup", () => (this.drag = null));
    canvas.addEventListener("pointermove", (event) => {
      const [x, y] = at(event);
      if (this.drag) {
        this.look(
          this.zoom.scale,
          this.zoom.x + (this.drag[0] - x) / this.zoom.scale,
          this.zoom.y + (this.drag[1] - y) / this.zoom.scale,
        );
        this.drag = [x, y];
      }
      this.hover = { x: this.zoom.x + x / this.zoom.scale, y: this.zoom.y + y / this.zoom.scale, which: panel.which };
      this.app.redraw();
    });
    canvas.addEventListener("pointerleave", () => {
      this.hover = null;
      this.app.redraw();
    });
    canvas.addEventListener("dblclick", () => this.look(1, 0, 0));
  }

  zoomBy(factor, x = 0.5, y = 0.5) {
    const scale = clamp(this.zoom.scale * factor, ...ZOOM);
    const fixed = [this.zoom.x + x / this.zoom.scale, this.zoom.y + y / this.zoom.scale];
    this.look(scale, fixed[0] - x / scale, fixed[1] - y / scale);
  }

  look(scale, x, y) {
    this.zoom = { scale, x: clamp(x, 0, 1 - 1 / scale), y: clamp(y, 0, 1 - 1 / scale) };
    this.app.redraw();
  }

  draw() {
    const { app } = this;
    const { rows, cursor, samples, pixels } = app;
    const sample = rows[cursor];
    this.build();
    this.element.classList.toggle("eb-none", sample === undefined);
    if (sample === undefined) {
      this.heading.textContent = "No sample";
      return this.facts.replaceChildren();
    }
    const near = [0, 1, -1, 2, 3, 4, -2, 5, 6, 7, 8, -3, 9, 10, 11, 12, -4]
      .map((step) => rows[cursor + step])
      .filter((i) => i !== undefined);
    pixels.want(near.map((i) => samples.rows[i]));
    const entry = pixels.get(samples.rows[sample]);
    this.describe(sample);
    if (!this.panels[0].canvas.clientWidth) return;
    for (const panel of this.panels) this.drawPanel(panel, entry);
    this.say(entry);
    this.element.dataset.sample = entry ? samples.ids[sample] : "";
  }

  drawPanel(panel, entry) {
    const { options } = this.app;
    const [{ canvas, kind }, side] = [panel, panel.canvas.clientWidth];
    const context = fit(canvas, side, side);
    context.clearRect(0, 0, side, side);
    if (!entry) return;
    const label = options.overlay && kind !== "image" ? this.label(panel, entry) : null;
    const colours = kind === "errors" ? options.colours.errors : options.colours.parts;
    const { canvas: small, pixels, put } = buffer(entry.size);
    const dim = kind === "errors" ? 0.55 : options.occluded && kind !== "image" ? 0.5 : 1;
    blend(
      pixels,
      entry.image,
      options.outline ? null : label,
      colours,
      kind === "errors" ? 1 - (1 - options.opacity) / 2 : options.opacity,
      dim,
    );
    put();
    const unit = (side * this.zoom.scale) / entry.size; // screen px of a mask's pixel
    context.save();
    context.translate(-this.zoom.x * side * this.zoom.scale, -this.zoom.y * side * this.zoom.scale);
    context.scale(unit, unit);
    context.drawImage(small, 0, 0);
    if (options.outline && label) this.drawOutlines(context, label, colours, entry.size, unit);
    if (this.hover) this.drawMark(context, entry.size, unit);
    context.restore();
  }

  label({ kind, source, which }, entry) {
    const { options, labels } = this.app;
    return (kind === "errors" ? shownErrors : shown)(entry, source, which, options, labels);
  }

  drawOutlines(context, label, colours, size, unit) {
    context.lineWidth = 2 / unit;
    for (const [part, path] of outlines(label, size)) {
      context.strokeStyle = `rgb(${colours[part].join()})`;
      context.stroke(path);
    }
  }

  drawMark(context, size, unit) {
    const [x, y] = [Math.floor(this.hover.x * size), Math.floor(this.hover.y * size)];
    context.lineWidth = 1.5 / unit;
    context.strokeStyle = "white";
    context.strokeRect(x, y, 1, 1);
  }

  /** Describe the pixel under the pointer. */
  say(entry) {
    if (!this.hover || !entry) {
      this.under.textContent =
        "Point at a pixel to read its parts. Wheel or + and − zoom, dragging moves, 0 shows the whole.";
      return;
    }
    const { labels, state } = this.app;
    const [x, y] = [this.hover.x, this.hover.y].map((share) =>
      clamp(Math.floor(share * entry.size), 0, entry.size - 1),
    );
    const [at, which] = [y * entry.size + x, this.hover.which];
    const of = (name) => hand(entry[name], which)[at];
    const words = [`${labels.hands[which]} hand at (${x}, ${y}): predicted ${labels.parts[of("predicted")]}`];
    if (state.compare && labels.other) words.push(`${labels.other} ${labels.parts[of("other")]}`);
    if (labels.truth) {
      const code = errorCodes([of("predicted")], [of("truth")], [hand(entry.truth, 1 - which)[at]])[0];
      words.push(`truth ${labels.parts[of("truth")]}`, labels.errors[code]);
    }
    this.under.textContent = words.join(", ");
  }

  /** Scores and facts beside the panels. */
  describe(sample) {
    const { samples, app } = { samples: this.app.samples, app: this.app };
    const key = `${sample} ${samples.counted} ${JSON.stringify(samples.tags[samples.ids[sample]] ?? [])}`;
    if (this.described === key) return;
    this.described = key;
    this.heading.textContent = samples.ids[sample];
    const rows = samples.numbers.map(({ name, label, values }) => [
      label,
      (name === "occluded" ? share : number)(values[sample]),
    ]);
    rows.push(...samples.categories.map(({ label, levels, codes }) => [label, levels[codes[sample]]]));
    this.facts.replaceChildren(...rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
    this.tags.replaceChildren(
      h("b", {}, "Tags"),
      ...this.tagButtons(samples.ids[sample]),
      this.ownTag(samples.ids[sample]),
    );
    app.announce(`${samples.ids[sample]}, ${app.caption(sample)}`);
  }

  tagButtons(id) {
    const given = this.app.samples.tags[id] ?? [];
    return this.app.knownTags().map((tag) => {
      const on = given.includes(tag);
      const click = () => this.app.request({ kind: "tag", id, tag, on: !on });
      return h("button", { class: "eb-tag", "aria-pressed": String(on), onclick: click }, tag);
    });
  }

  ownTag(id) {
    const add = (event) => {
      if (event.key !== "Enter" || !event.target.value.trim()) return;
      this.app.request({ kind: "tag", id, tag: event.target.value.trim(), on: true });
      event.target.value = "";
      this.app.focus();
    };
    return h("input", {
      class: "eb-own",
      placeholder: "own tag, Enter",
      "aria-label": "Add an own tag",
      onkeydown: add,
    });
  }

  key(event) {
    const { app } = this;
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1, PageUp: -10, PageDown: 10 }[event.key];
    if (step) app.move(clamp(app.cursor + step, 0, app.rows.length - 1));
    else if (event.key === "Home") app.move(0);
    else if (event.key === "End") app.move(app.rows.length - 1);
    else if (event.key === "+" || event.key === "=") this.zoomBy(1.4);
    else if (event.key === "-") this.zoomBy(1 / 1.4);
    else if (event.key === "0") this.look(1, 0, 0);
    else if (event.key === "Escape") app.set({ mode: "gallery" });
    else return false;
    return true;
  }
}
