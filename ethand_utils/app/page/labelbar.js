// The labeller's toolbar and status lines.

import { h, press } from "./dom.js";
import { act } from "./labelkeys.js";

const group = (...children) => h("span", { class: "eb-group" }, ...children);

export class Toolbar {
  constructor(app) {
    this.app = app;
    this.createEdits();
    this.createLooks();
    const help = this.button("?", "help", "Keys (?)", "Help");
    this.element = h(
      "div",
      { class: "eb-bar hl-bar", role: "toolbar", "aria-label": "Label" },
      group(this.undo, this.redo),
      group(h("span", { class: "eb-word" }, "Hands"), this.hands, this.swap),
      group(h("span", { class: "eb-word" }, "Joint"), this.guessed, this.clear),
      group(this.flip),
      group(h("label", { class: "eb-word" }, "In front ", this.front)),
      group(this.again),
      group(Object.values(this.toggles), this.masks),
      group(h("label", { class: "eb-word" }, "Opacity ", this.opacity)),
      group(this.palette),
      h("span", { class: "eb-group eb-end" }, this.next, help),
    );
  }

  /** Controls that change the label. */
  createEdits() {
    const { app } = this;
    this.undo = this.button("↶", "undo", "Undo (Ctrl+Z)", "Undo");
    this.redo = this.button("↷", "redo", "Redo (Ctrl+Shift+Z)", "Redo");
    this.hands = app.labels.hands.map((name, which) => {
      const title = `Is the ${name} hand in the photo?`;
      return h("button", { "data-hand": name, title, onclick: () => app.toggleHand(which) }, name);
    });
    this.swap = this.button("⇄", "swap", "Exchange left and right (s)", "Exchange left and right");
    this.guessed = this.button("Guessed", "guessed", "The selected joint is a guess (g)");
    this.clear = this.button("Not visible", "clear", "Let the rig decide where the selected joint is (x)");
    this.flip = this.button("Flip bend", "flip", "The other of two answers that fit the joints (f)");
    const front = { "aria-label": "In front", title: "Which hand is in front (r)" };
    this.front = this.select(front, app.labels.fronts, (value) => app.setFront(value));
    this.again = this.button("First guess", "guess", "Begin again with the first guess");
    this.next = this.button("Save, next", "accept", "Save this photo as it is and go to the next (Enter)");
    this.next.classList.add("hl-primary");
  }

  /** Controls of how the label is drawn. */
  createLooks() {
    const { app } = this;
    this.toggles = {
      overlay: this.button("Masks", "overlay", "Masks on or off (o)"),
      outline: this.button("Outline", "outline", "Outlines only (l)"),
      skeleton: this.button("Joints", "skeleton", "Joints on or off (j)"),
    };
    const hands = [["both", "both hands"], ...app.labels.hands.map((name, k) => [k, `${name} hand`])];
    const masks = { "aria-label": "Masks of", title: "Whose masks are shown (m)" };
    this.masks = this.select(masks, hands, (value) => app.set({ masks: value }));
    const range = { type: "range", min: 0, max: 1, step: 0.05, "aria-label": "Opacity", class: "eb-opacity" };
    this.opacity = h("input", { ...range, oninput: () => app.set({ opacity: Number(this.opacity.value) }) });
    const palettes = Object.keys(app.labels.palettes).map((name) => [name, name]);
    const palette = { class: "eb-palette", "aria-label": "Colours" };
    this.palette = this.select(palette, palettes, (value) => app.set({ palette: value }));
  }

  /** A button that does an action (labelkeys.js); a symbol needs a `label` for screen readers. */
  button(text, action, title, label = null) {
    const attributes = { "data-action": action, title, "aria-label": label, onclick: () => act(this.app, action) };
    return h("button", attributes, text);
  }

  /** A list of options [value, text] to choose from. */
  select(attributes, options, choose) {
    const items = options.map(([value, text]) => h("option", { value }, text));
    const element = h("select", { ...attributes, onchange: () => choose(element.value) }, items);
    return element;
  }

  draw() {
    const { app } = this;
    const { label, history, writable, selected, active, state } = app;
    const each = label?.hands[active];
    const joint = Boolean(each) && selected !== null;
    this.undo.disabled = !writable || !history?.canUndo;
    this.redo.disabled = !writable || !history?.canRedo;
    this.hands.forEach((button, which) => {
      press(button, Boolean(label?.hands[which]));
      button.disabled = !writable || !label;
    });
    this.swap.disabled = !writable || !label?.hands.some(Boolean);
    this.guessed.disabled = this.clear.disabled = !writable || !joint;
    press(this.guessed, joint && each.joints[selected] !== null && each.guessed[selected]);
    press(this.clear, joint && each.joints[selected] === null);
    const answers = app.fitted?.hands[active]?.answers ?? 0;
    this.flip.disabled = !writable || answers < 2;
    this.flip.textContent = answers > 1 ? `Flip bend (${(each?.answer ?? 0) + 1} of ${answers})` : "Flip bend";
    this.front.disabled = !writable || !label?.hands.every(Boolean);
    this.front.value = label?.front ?? app.labels.fronts[0][0];
    this.again.disabled = !writable || !label;
    for (const [name, button] of Object.entries(this.toggles)) press(button, state[name]);
    this.masks.value = state.masks;
    this.opacity.value = state.opacity;
    this.palette.value = state.palette;
    this.next.disabled = !(writable && label) && app.unopened !== app.index;
  }
}

const px = (value) => (Number.isFinite(value) ? `${value.toFixed(1)} px` : "–");

export class Status {
  constructor(app) {
    this.app = app;
    this.photo = h("b", { class: "hl-photo" });
    this.joint = h("span", { class: "hl-joint" });
    this.residual = h("span", { class: "hl-residual" });
    this.saved = h("span", { class: "hl-saved", role: "status" });
    this.seconds = h("span", { class: "hl-seconds" });
    this.warnings = h("p", { class: "hl-warnings", role: "note" });
    const lines = [this.photo, this.saved, this.seconds, this.residual, this.joint];
    this.element = h("div", { class: "hl-status" }, h("p", { class: "hl-line" }, lines), this.warnings);
  }

  draw() {
    const { app } = this;
    const { photo, labels } = app;
    const all = app.done.size === labels.photos.length ? "; next: ethand data labels, notebook 15" : "";
    const done = `${app.done.size} of ${labels.photos.length} labelled${all}`;
    this.photo.textContent = `${labels.photos[app.index] ?? "no photo"} (${done})`;
    this.saved.textContent = this.savedText();
    this.seconds.textContent = photo ? `${Math.round(photo.seconds)} s on this photo` : "";
    this.residual.textContent = this.residualText();
    this.joint.textContent = this.jointText();
    const warnings = [...(app.fitted?.warnings ?? [])];
    if (app.failure) warnings.unshift(app.failure);
    this.warnings.textContent = warnings.join("; ") || "\u00a0";
    this.warnings.classList.toggle("hl-failure", Boolean(app.failure));
  }

  savedText() {
    const { app } = this;
    if (app.unopened === app.index) return "not opened; Enter: the next photo";
    if (!app.photo) return "opening …";
    if (app.late()) return "waiting for the kernel …";
    if (!app.writable) return "read only";
    if (app.saving()) return "saving …";
    if (app.failure) return `not saved${app.photo.saved ? ` since ${app.photo.saved}` : ""}`;
    return app.photo.saved ? `saved ${app.photo.saved}` : "not saved yet";
  }

  /** The rig's distance from the joints placed: mean of each hand, and the largest. */
  residualText() {
    const { app } = this;
    const texts = (app.fitted?.hands ?? []).flatMap((each, which) => {
      const values = (each?.residual ?? []).filter((value) => value !== null);
      if (!values.length) return [];
      const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
      return [`${app.labels.hands[which]} ${px(mean)} (at most ${px(Math.max(...values))})`];
    });
    return texts.length ? `off the joints: ${texts.join("; ")}` : "";
  }

  /** The joint under the pointer, else the selected one. */
  jointText() {
    const { app } = this;
    const { which, joint } = app.stage.hover ?? { which: app.active, joint: app.selected };
    const each = app.label?.hands[which];
    if (!each || joint === null) return "";
    const name = `${app.labels.hands[which]} ${app.labels.joints[joint].name}`;
    const how = each.joints[joint] === null ? "the rig decides" : each.guessed[joint] ? "guessed" : "placed";
    const off = app.fitted?.hands[which]?.residual[joint];
    return `${name}: ${how}${off == null ? "" : `, ${px(off)} off`}`;
  }
}
