// The photo with masks and skeletons over it: drawing, zoom, and the pointers that move joints.

import { h, clamp, fit } from "./dom.js";
import { hand, outlines, together } from "./paint.js";
import { moveHand, placeJoint, placeOfAdded } from "./labelstate.js";

const MARGIN = 0.04; // of the view about the whole photo, so that joints beyond its edge can be reached
const AROUND = 1.15; // side of the view of the hands over that of their masks' crop
const SMALL = 0.7; // of a photo's shorter side, below which its hands are shown larger at first
const DEEPEST = 40; // CSS px of a photo's pixel, at most
const REACH = { mouse: 12, pen: 16, touch: 26 }; // CSS px about a joint in which a pointer takes it
const ACTIVE_BONUS = 5; // CSS px by which joints of the active hand count as nearer
const SELECTED_BONUS = 6; // and the selected one of them, so that it can be taken from beneath others
const TICK = 9; // CSS px between a joint that was placed and where the rig has it, from which this is drawn
const STILL = 3; // CSS px that a pointer may move and still have clicked

export class Stage {
  constructor(app) {
    this.app = app;
    this.canvas = h("canvas", { class: "hl-canvas", role: "img", "aria-label": "Photo with the hands' joints" });
    this.note = h("p", { class: "hl-note" });
    this.element = h("div", { class: "hl-stage" }, this.canvas, this.note);
    this.pointers = new Map();
    this.layer = document.createElement("canvas");
    this.listen();
  }

  // ---- view ---------------------------------------------------------------------------------------------------------

  /** Show the region (x, y, width, height) px of the photo, centred. */
  show(x, y, width, height) {
    const [w, t] = [this.canvas.clientWidth, this.canvas.clientHeight];
    const scale = Math.min(w / width, t / height);
    this.zoom = { scale, x: x + width / 2 - w / scale / 2, y: y + height / 2 - t / scale / 2 };
    this.app.redraw();
  }

  showWhole() {
    const { width, height } = this.app.photo;
    const [dx, dy] = [MARGIN * width, MARGIN * height];
    this.whole = true;
    this.show(-dx, -dy, width + 2 * dx, height + 2 * dy);
  }

  showHands() {
    const crop = this.app.fitted?.crop;
    if (!crop) return this.showWhole();
    const [x, y, side] = crop;
    const margin = ((AROUND - 1) / 2) * side;
    this.whole = false;
    this.show(x - margin, y - margin, side * AROUND, side * AROUND);
  }

  /** Show the hands where they are a small part of the photo. */
  showFirst() {
    const { photo, fitted } = this.app;
    const side = fitted?.crop?.[2] ?? Infinity;
    if (this.whole && side * AROUND < SMALL * Math.min(photo.width, photo.height)) this.showHands();
  }

  /** Zoom by a factor about a point of the canvas (CSS px; its middle by default). */
  zoomBy(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const { width, height } = this.app.photo;
    const least = 0.4 * Math.min(this.canvas.clientWidth / width, this.canvas.clientHeight / height);
    const scale = clamp(this.zoom.scale * factor, least, DEEPEST);
    const fixed = this.toPhoto([x, y]);
    this.whole = false;
    this.zoom = { scale, x: fixed[0] - x / scale, y: fixed[1] - y / scale };
    this.app.redraw();
  }

  pan(dx, dy) {
    const { width, height } = this.app.photo;
    const [w, t] = [this.canvas.clientWidth / this.zoom.scale, this.canvas.clientHeight / this.zoom.scale];
    this.whole = false;
    // The view's middle stays on the photo.
    this.zoom.x = clamp(this.zoom.x - dx / this.zoom.scale, -w / 2, width - w / 2);
    this.zoom.y = clamp(this.zoom.y - dy / this.zoom.scale, -t / 2, height - t / 2);
    this.app.redraw();
  }

  toPhoto([x, y]) {
    return [this.zoom.x + x / this.zoom.scale, this.zoom.y + y / this.zoom.scale];
  }

  toScreen([x, y]) {
    return [(x - this.zoom.x) * this.zoom.scale, (y - this.zoom.y) * this.zoom.scale];
  }

  // ---- pointers -----------------------------------------------------------------------------------------------------

  listen() {
    const { canvas } = this;
    const position = (event) => [event.offsetX, event.offsetY];
    canvas.addEventListener(
      "wheel",
      (event) => {
        if (!this.app.focused() || !this.app.photo) return; // a notebook is being scrolled
        event.preventDefault();
        this.zoomBy(Math.exp(-event.deltaY / 400), ...position(event));
      },
      { passive: false },
    );
    canvas.addEventListener("pointerdown", (event) => this.down(event, position(event)));
    canvas.addEventListener("pointermove", (event) => this.move(event, position(event)));
    canvas.addEventListener("pointerup", (event) => this.up(event));
    canvas.addEventListener("pointercancel", (event) => this.up(event, true));
    canvas.addEventListener("pointerleave", () => {
      this.hover = null;
      this.app.redraw();
    });
    canvas.addEventListener("dblclick", () => this.app.photo && (this.whole ? this.showHands() : this.showWhole()));
  }

  /** The joint under a point of the canvas: { which, joint }, or null. */
  hit([x, y], kind = "mouse") {
    let best = null;
    let nearest = REACH[kind] ?? REACH.mouse;
    this.app.label?.hands.forEach((each, which) => {
      if (!each) return;
      for (let joint = 0; joint < each.joints.length; joint++) {
        const point = this.app.jointAt(which, joint);
        if (!point) continue;
        const [px, py] = this.toScreen(point);
        const bonus = this.app.isSelected(which, joint) ? SELECTED_BONUS : 0;
        const distance = Math.hypot(px - x, py - y) - bonus - (which === this.app.active ? ACTIVE_BONUS : 0);
        if (distance < nearest) [nearest, best] = [distance, { which, joint }];
      }
    });
    return best;
  }

  down(event, point) {
    if (event.button > 0 || !this.app.photo) return;
    event.preventDefault();
    this.app.focus();
    this.app.lively();
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, point);
    if (this.pointers.size > 1) return this.cancel();
    const hit = this.hit(point, event.pointerType);
    this.hover = null;
    this.drag = { start: point, last: point, moved: false };
    if (!hit) return;
    this.app.select(hit.which, hit.joint);
    if (!this.app.writable) return;
    // The joint keeps its offset from the pointer, which may have taken it beside its middle.
    const [x, y] = this.toScreen(this.app.jointAt(hit.which, hit.joint));
    Object.assign(this.drag, { ...hit, offset: [x - point[0], y - point[1]], whole: event.shiftKey });
  }

  move(event, point) {
    this.app.lively();
    if (!this.app.photo) return;
    const last = this.pointers.get(event.pointerId);
    if (last) this.pointers.set(event.pointerId, point);
    if (this.pointers.size === 2 && last) this.pinch(event.pointerId, last, point);
    else if (this.drag && last) this.dragTo(point);
    else if (!last) {
      this.hover = this.hit(point);
      this.canvas.style.cursor = this.hover ? "grab" : "default";
      this.app.redraw();
    }
  }

  /** Two pointers: zoom by the change of their distance, pan by that of their middle. */
  pinch(id, last, point) {
    const other = [...this.pointers].find(([key]) => key !== id)[1];
    const distance = (p) => Math.max(1, Math.hypot(p[0] - other[0], p[1] - other[1]));
    this.pan((point[0] - last[0]) / 2, (point[1] - last[1]) / 2);
    this.zoomBy(distance(point) / distance(last), (point[0] + other[0]) / 2, (point[1] + other[1]) / 2);
  }

  dragTo(point) {
    const { drag, app } = this;
    if (!drag.moved && Math.hypot(point[0] - drag.start[0], point[1] - drag.start[1]) <= STILL) return;
    drag.moved = true;
    this.canvas.style.cursor = "grabbing";
    if (drag.joint === undefined) this.pan(point[0] - drag.last[0], point[1] - drag.last[1]);
    else {
      const [from, to] = [this.toPhoto(drag.start), this.toPhoto(point)];
      const goal = this.toPhoto([point[0] + drag.offset[0], point[1] + drag.offset[1]]);
      const { which, joint } = drag;
      const put = app.isAdded(which) ? placeOfAdded : placeJoint;
      app.setDraft(
        drag.whole
          ? moveHand(app.committed, which, to[0] - from[0], to[1] - from[1])
          : put(app.committed, which, joint, goal),
      );
    }
    drag.last = point;
  }

  up(event, cancelled = false) {
    if (!this.pointers.delete(event.pointerId)) return;
    this.canvas.style.cursor = "default";
    const { drag } = this;
    this.drag = null;
    if (!drag) return;
    if (cancelled) this.app.dropDraft();
    else if (drag.moved) this.app.commitDraft();
    else if (drag.joint === undefined && !this.hit(drag.start, event.pointerType)) this.app.select(this.app.active, null);
  }

  /** End a drag without its effect: a second finger has begun to pinch. */
  cancel() {
    this.drag = null;
    this.app.dropDraft();
  }

  // ---- drawing ------------------------------------------------------------------------------------------------------

  draw() {
    const { app, canvas } = this;
    const [w, t] = [canvas.clientWidth, canvas.clientHeight];
    const context = fit(canvas, w, t);
    context.clearRect(0, 0, w, t);
    const { photo } = app;
    this.note.textContent = this.noteText();
    if (!photo) return;
    if (!this.zoom || (this.whole && this.sized !== `${w} ${t}`)) this.showWhole();
    this.sized = `${w} ${t}`;
    canvas.dataset.view = JSON.stringify(this.zoom);
    context.save();
    context.scale(this.zoom.scale, this.zoom.scale);
    context.translate(-this.zoom.x, -this.zoom.y);
    context.imageSmoothingEnabled = this.zoom.scale < 3;
    context.imageSmoothingQuality = "high";
    context.drawImage(photo.bitmap, 0, 0, photo.width, photo.height);
    if (app.fitted?.masks && app.state.overlay) this.drawMasks(context, app.fitted);
    context.restore();
    this.drawHands(context);
  }

  noteText() {
    const { photo, label, labels } = this.app;
    if (!labels.photos.length) return "There is no photo to label.";
    if (!photo) return "Opening the photo …";
    if (label.hands.some(Boolean)) return "";
    if (photo.saved) return "Labelled as a photo without hands.";
    return `No hand was found. Add one: ${labels.hands.join(" or ")}, above. If there is none, press Enter.`;
  }

  drawMasks(context, fitted) {
    const { crop, size } = fitted;
    const [x, y, side] = crop;
    this.paintParts(fitted);
    context.translate(x, y);
    context.scale(side / size, side / size);
    const { outline, opacity } = this.app.state;
    if (!outline) {
      context.imageSmoothingEnabled = false;
      context.globalAlpha = opacity;
      context.drawImage(this.layer, 0, 0);
      context.globalAlpha = 1;
    }
    const unit = (side / size) * this.zoom.scale;
    context.lineJoin = "round";
    for (const [colour, path] of this.paths(fitted)) {
      context.strokeStyle = colour;
      context.lineWidth = (outline ? 1.8 : 1.2) / unit;
      context.stroke(path);
    }
  }

  /** The hands whose masks are drawn: both, or the one chosen. */
  maskHands() {
    const { masks } = this.app.state;
    return [0, 1].filter((which) => masks === "both" || Number(masks) === which);
  }

  /** Paint the parts of the shown hands, the one in front where both are, into a canvas; once for each fit and look. */
  paintParts(fitted) {
    const { app } = this;
    const key = [fitted.serial, app.state.palette, app.state.masks].join();
    if (this.painted === key) return;
    this.painted = key;
    const { size } = fitted;
    const empty = new Uint8Array(size * size);
    const chosen = this.maskHands();
    const [left, right] = [0, 1].map((which) => (chosen.includes(which) ? hand(fitted.masks, which) : empty));
    const parts = together(left, right, fitted.front, app.labels.in_front[0]);
    const table = Uint32Array.from(app.colours, ([r, g, b], part) => (part ? 0xff000000 | (b << 16) | (g << 8) | r : 0));
    const { layer } = this;
    Object.assign(layer, { width: size, height: size });
    const data = layer.getContext("2d").createImageData(size, size);
    const pixels = new Uint32Array(data.data.buffer);
    for (let i = 0; i < pixels.length; i++) pixels[i] = table[parts[i]];
    layer.getContext("2d").putImageData(data, 0, 0);
  }

  /** Edges to draw, as [colour, path] in the masks' px: of all parts, or only about each hand where parts are filled. */
  paths(fitted) {
    const { app } = this;
    const key = [fitted.serial, app.state.palette, app.state.masks, app.state.outline].join();
    if (this.traced === key) return this.traces;
    this.traced = key;
    this.traces = this.maskHands().flatMap((which) => {
      const parts = hand(fitted.masks, which);
      const labels = app.state.outline ? parts : parts.map((part) => (part ? 1 : 0));
      const colour = (part) => (app.state.outline ? `rgb(${app.colours[part].join()})` : "rgba(255, 255, 255, 0.85)");
      return [...outlines(labels, fitted.size)].map(([part, path]) => [colour(part), path]);
    });
    return this.traces;
  }

  drawHands(context) {
    const { app } = this;
    if (!app.label || !app.state.skeleton) return;
    const order = [1 - app.active, app.active].filter((which) => app.label.hands[which]);
    for (const which of order) {
      context.globalAlpha = which === app.active ? 1 : 0.55;
      this.drawBones(context, which);
      app.label.hands[which].joints.forEach((_, joint) => this.drawJoint(context, which, joint));
      this.drawName(context, which);
    }
    context.globalAlpha = 1;
  }

  drawBones(context, which) {
    const { app } = this;
    context.lineCap = "round";
    for (const [width, shade] of [
      [5, "rgba(0, 0, 0, 0.65)"],
      [2.5, null],
    ]) {
      for (const [a, b, part] of app.labels.bones) {
        const [start, end] = [app.jointAt(which, a), app.jointAt(which, b)];
        if (!start || !end) continue;
        context.strokeStyle = shade ?? `rgb(${app.colours[part].join()})`;
        context.lineWidth = width;
        context.beginPath();
        context.moveTo(...this.toScreen(start));
        context.lineTo(...this.toScreen(end));
        context.stroke();
      }
    }
  }

  /** A joint: filled where it was placed, a ring where it is a guess, a small ring where the rig decides. */
  drawJoint(context, which, joint) {
    const { app } = this;
    const each = app.label.hands[which];
    const point = app.jointAt(which, joint);
    if (!point) return;
    const [x, y] = this.toScreen(point);
    const colour = `rgb(${app.colours[app.labels.joints[joint].part].join()})`;
    const placed = each.joints[joint] !== null;
    if (placed) this.drawTick(context, which, joint, [x, y]);
    const radius = placed ? 5.5 : 3.5;
    const circle = (r) => {
      context.beginPath();
      context.arc(x, y, r, 0, 2 * Math.PI);
    };
    circle(radius);
    const sure = placed && !each.guessed[joint];
    context.fillStyle = sure ? colour : "rgba(0, 0, 0, 0.5)";
    context.fill();
    for (const [width, shade] of [
      [sure ? 3 : 4, "rgba(0, 0, 0, 0.8)"],
      [sure ? 1.5 : 2, sure ? "white" : colour],
    ]) {
      context.lineWidth = width;
      context.strokeStyle = shade;
      context.stroke();
    }
    const chosen = app.isSelected(which, joint);
    const under = this.hover?.which === which && this.hover?.joint === joint;
    if (!chosen && !under) return;
    circle(radius + 5);
    context.lineWidth = chosen ? 2.5 : 1.5;
    context.strokeStyle = "white";
    context.stroke();
  }

  /** A line from a placed joint to where the rig has it, where that is elsewhere. */
  drawTick(context, which, joint, point) {
    const { app } = this;
    const rig = app.fitted?.hands[which]?.pixels[joint];
    if (!rig || app.draft) return;
    const goal = this.toScreen(rig);
    if (Math.hypot(goal[0] - point[0], goal[1] - point[1]) < TICK) return;
    context.setLineDash([4, 3]);
    context.lineWidth = 2;
    context.strokeStyle = "white";
    context.beginPath();
    context.moveTo(...point);
    context.lineTo(...goal);
    context.stroke();
    context.setLineDash([]);
  }

  /** The hand's name beside its wrist. */
  drawName(context, which) {
    const point = this.app.jointAt(which, this.app.labels.wrist);
    if (!point) return;
    const [x, y] = this.toScreen(point);
    context.font = "600 12px system-ui, sans-serif";
    context.lineWidth = 3;
    context.strokeStyle = "rgba(0, 0, 0, 0.8)";
    context.fillStyle = "white";
    context.strokeText(this.app.labels.hands[which], x + 10, y + 4);
    context.fillText(this.app.labels.hands[which], x + 10, y + 4);
  }
}
