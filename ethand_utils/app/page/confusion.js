// The confusion of parts, added up over the samples that pass the other filters; a click on a cell shows its samples.

import { h, clamp, fit } from "./dom.js";

const CELL = [20, 34]; // CSS px a side
const MARGIN = { left: 124, top: 118, right: 60 };
const LISTED = 14; // largest confusions named beside the matrix

export class Confusion {
  constructor(app) {
    this.app = app;
    this.order = [0, ...[...app.labels.groups].reverse().flatMap((group) => group.parts)];
    this.matrix = 0;
    this.at = [1, 2];
    this.choice = h(
      "select",
      { "aria-label": "Matrix", onchange: () => this.choose(Number(this.choice.value)) },
      app.labels.matrices.map((name, k) =>
        h("option", { value: k }, name in { left: 1, right: 1 } ? `${name} hand` : name),
      ),
    );
    this.canvas = h("canvas", { tabindex: "0", role: "img", class: "eb-matrix" });
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("click", (event) => this.point(event) && this.pick());
    this.note = h("p", { class: "eb-under", "aria-live": "polite" });
    this.list = h("ol", { class: "eb-largest" });
    const words =
      "Rows are truth, columns prediction; the stronger a colour, the larger its share of the row. A click shows samples.";
    this.element = h(
      "div",
      { class: "eb-confusion" },
      this.canvas,
      h(
        "div",
        { class: "eb-beside" },
        h("label", {}, "Confusion of ", this.choice),
        h("p", { class: "eb-hint" }, words),
        this.note,
        h("h3", { class: "eb-heading" }, "Parts called other parts, most pixels first"),
        this.list,
      ),
    );
  }

  choose(matrix) {
    this.matrix = matrix;
    this.app.redraw();
  }

  point(event) {
    const cell = [
      Math.floor((event.offsetY - MARGIN.top) / this.side),
      Math.floor((event.offsetX - MARGIN.left) / this.side),
    ];
    if (Math.min(...cell) < 0 || Math.max(...cell) >= this.order.length) return false;
    this.at = cell;
    this.app.redraw();
    return true;
  }

  /** Number of the chosen cell, as the kernel counts them: (matrix · classes + truth) · classes + prediction. */
  get cell() {
    const classes = this.order.length;
    return (this.matrix * classes + this.order[this.at[0]]) * classes + this.order[this.at[1]];
  }

  pick() {
    this.app.showCell(this.cell);
  }

  draw() {
    const { app } = this;
    const classes = this.order.length;
    this.side = clamp(Math.floor((this.element.clientHeight - MARGIN.top - 6) / classes), ...CELL);
    const key = [this.side, this.matrix, this.at, app.others, app.samples.counted, app.dark()].join();
    if (key === this.drawn) return;
    this.drawn = key;
    const total = app.samples.matrix(this.matrix, app.otherRows());
    const [width, height] = [MARGIN.left + classes * this.side + MARGIN.right, MARGIN.top + classes * this.side + 4];
    Object.assign(this.canvas.style, { width: `${width}px`, height: `${height}px` });
    this.canvas.dataset.grid = JSON.stringify({ ...MARGIN, side: this.side, order: this.order });
    const context = fit(this.canvas, width, height);
    context.clearRect(0, 0, width, height);
    this.drawCells(context, total);
    this.drawNames(context);
    this.say(total);
    this.listLargest(total);
  }

  drawCells(context, total) {
    const style = getComputedStyle(this.canvas);
    const [ink, ground, onInk, onGround] = ["heat", "right", "on-heat", "on-right"].map((name) =>
      style.getPropertyValue(`--eb-${name}`),
    );
    this.order.forEach((truth, row) => {
      const pixels = this.order.map((predicted) => total[truth * this.order.length + predicted]);
      const sum = pixels.reduce((a, b) => a + b, 0);
      pixels.forEach((count, column) => {
        const [x, y] = [MARGIN.left + column * this.side, MARGIN.top + row * this.side];
        const own = this.matrix < this.app.labels.hands.length && row === column;
        context.globalAlpha = sum ? Math.sqrt(count / sum) : 0;
        context.fillStyle = own ? ground : ink;
        context.fillRect(x, y, this.side - 1, this.side - 1);
        context.globalAlpha = 1;
        context.strokeStyle = style.getPropertyValue("--eb-line");
        context.strokeRect(x - 0.5, y - 0.5, this.side, this.side);
        const percent = sum ? Math.round((100 * count) / sum) : 0;
        if (percent < 1) return;
        context.fillStyle = Math.sqrt(count / sum) < 0.7 ? style.color : own ? onGround : onInk;
        context.font = `10px ${style.fontFamily}`;
        context.textAlign = "center";
        context.textBaseline = "middle";
        context.fillText(percent, x + this.side / 2, y + this.side / 2);
      });
    });
    context.lineWidth = 2;
    context.strokeStyle = style.getPropertyValue("--eb-accent");
    context.strokeRect(
      MARGIN.left + this.at[1] * this.side,
      MARGIN.top + this.at[0] * this.side,
      this.side - 1,
      this.side - 1,
    );
    context.lineWidth = 1;
  }

  drawNames(context) {
    const [style, { labels, options }] = [getComputedStyle(this.canvas), this.app];
    context.font = `11px ${style.fontFamily}`;
    this.order.forEach((part, k) => {
      const middle = (k + 0.5) * this.side;
      const draw = (x, y, align) => {
        context.fillStyle = style.color;
        context.textAlign = align;
        context.textBaseline = "middle";
        context.fillText(labels.parts[part], x, y);
      };
      const dot = (x, y) => {
        context.fillStyle = part ? `rgb(${options.colours.parts[part].join()})` : "transparent";
        context.fillRect(x, y, 7, 7);
      };
      dot(MARGIN.left - 12, MARGIN.top + middle - 4);
      draw(MARGIN.left - 18, MARGIN.top + middle, "right");
      dot(MARGIN.left + middle - 4, MARGIN.top - 12);
      context.save();
      context.translate(MARGIN.left + middle, MARGIN.top - 18);
      context.rotate(-Math.PI / 3);
      draw(0, 0, "left");
      context.restore();
    });
  }

  /** The largest confusions of two parts, each a button to its samples. */
  listLargest(total) {
    const { labels } = this.app;
    const classes = this.order.length;
    const own = this.matrix < labels.hands.length;
    const parts = (k) => k >= classes && k % classes > 0;
    const wrong = [...total.keys()].filter((k) => total[k] && parts(k) && !(own && k % (classes + 1) === 0));
    wrong.sort((a, b) => total[b] - total[a]);
    const item = (k) => {
      const words = `${labels.parts[Math.floor(k / classes)]} called ${labels.parts[k % classes]}`;
      const click = () => this.app.showCell(this.matrix * classes * classes + k);
      return h("li", {}, h("button", { onclick: click }, words), ` ${total[k]} px`);
    };
    this.list.replaceChildren(...wrong.slice(0, LISTED).map(item));
  }

  say(total) {
    const { labels } = this.app;
    const [truth, predicted] = this.at.map((k) => this.order[k]);
    const classes = this.order.length;
    const count = total[truth * classes + predicted];
    const sum = total.slice(truth * classes, (truth + 1) * classes).reduce((a, b) => a + b, 0);
    const text = `${this.name()}: ${labels.parts[truth]} called ${labels.parts[predicted]}: ${count} px`;
    this.note.textContent = `${text}, ${sum ? ((100 * count) / sum).toFixed(1) : 0} % of the row`;
    this.canvas.setAttribute(
      "aria-label",
      `Confusion matrix. ${this.note.textContent}. Arrows move, Enter shows samples.`,
    );
  }

  name() {
    return this.choice.options[this.matrix].text;
  }

  key(event) {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (step) this.at = this.at.map((k, axis) => clamp(k + step[axis], 0, this.order.length - 1));
    else if (event.key === "Enter") this.pick();
    else if (event.key === "Escape") this.app.set({ mode: "gallery" });
    else return false;
    this.app.redraw();
    return true;
  }
}
