// The strip of photos: small pictures with a tick on those labelled, fetched as they come into view.

import { h } from "./dom.js";

const BATCH = 8; // pictures a request

export class Strip {
  constructor(app) {
    this.app = app;
    this.wanted = [];
    this.asked = new Set();
    this.element = h("div", { class: "hl-strip", role: "listbox", "aria-label": "Photos" });
    this.cells = app.labels.photos.map((name, k) => this.cell(name, k));
    this.element.append(...this.cells.map(({ button }) => button));
    this.buttons = new Map(this.cells.map(({ button }, k) => [button, k]));
    this.watch = new IntersectionObserver((entries) => this.want(entries), { root: this.element, rootMargin: "200px" });
    for (const { button } of this.cells) this.watch.observe(button);
  }

  cell(name, k) {
    const image = h("img", { alt: "", draggable: "false" });
    const tick = h("span", { class: "hl-tick", hidden: true }, "✓");
    const open = () => this.app.open(k);
    const attributes = { class: "hl-cell", role: "option", tabindex: "-1", title: name, onclick: open };
    return { image, tick, button: h("button", attributes, image, h("span", { class: "hl-name" }, name), tick) };
  }

  /** Ask for the pictures of the cells that come into view. */
  want(entries) {
    for (const { target, isIntersecting } of entries) {
      const k = this.buttons.get(target);
      if (isIntersecting && !this.asked.has(k)) this.wanted.push(k);
    }
    this.ask();
  }

  ask() {
    const photos = this.wanted.splice(0, BATCH).filter((k) => !this.asked.has(k));
    if (!photos.length) return;
    for (const k of photos) this.asked.add(k);
    this.app.request({ kind: "thumbnails", photos });
  }

  receive(photos, bytes) {
    photos.forEach((k, i) => {
      const { image } = this.cells[k];
      if (image.src) URL.revokeObjectURL(image.src);
      if (bytes[i].byteLength) image.src = URL.createObjectURL(new Blob([bytes[i]], { type: "image/jpeg" }));
    });
    this.ask();
  }

  draw() {
    const { app } = this;
    const key = [app.index, ...app.done].join();
    if (key === this.drawn) return;
    this.drawn = key;
    this.cells.forEach(({ button, tick }, k) => {
      const current = k === app.index;
      button.setAttribute("aria-selected", String(current));
      tick.hidden = !app.done.has(k);
      button.setAttribute("aria-label", `${app.labels.photos[k]}${app.done.has(k) ? ", labelled" : ""}`);
      if (current && this.current !== k) button.scrollIntoView({ block: "nearest", inline: "nearest" });
    });
    this.current = app.index;
  }

  close() {
    this.watch.disconnect();
    for (const { image } of this.cells) if (image.src) URL.revokeObjectURL(image.src);
  }
}
