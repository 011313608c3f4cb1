// The dialog that lists the keys.

import { h } from "./dom.js";

export class Help {
  /** `keys` are pairs of a key and what it does; `introduction` is a sentence before them. */
  constructor(app, title, keys, introduction = null) {
    const rows = keys.flatMap(([key, text]) => [h("dt", {}, key), h("dd", {}, text)]);
    this.app = app;
    this.element = h(
      "div",
      { class: "eb-help", role: "dialog", "aria-label": "Keys", tabindex: "-1", hidden: true },
      h("b", {}, title),
      introduction && h("p", {}, introduction),
      h("dl", {}, rows),
      h("button", { onclick: () => this.toggle(false) }, "Close"),
    );
  }

  toggle(on = this.element.hidden) {
    this.element.hidden = !on;
    if (on) this.element.focus();
    else this.app.focus();
  }
}
