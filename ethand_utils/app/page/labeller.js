// The labeller: its state, the requests to the kernel, and what is done to a label.

import { h, typed } from "./dom.js";
import { Help } from "./help.js";
import { Status, Toolbar } from "./labelbar.js";
import { KEYS, pressed } from "./labelkeys.js";
import { History, clearJoint, placeJoint, withHand } from "./labelstate.js";
import { Strip } from "./labelstrip.js";
import { Stage } from "./labelview.js";

const START = { opacity: 0.5, overlay: true, outline: false, skeleton: true, masks: "both", palette: "standard" };
const IDLE_MS = 8000; // without a key or a pointer's move, after which time no longer counts
const LATE_MS = 1500; // of a request without an answer, after which the page says so
const LOST_MS = 30000; // after which it is no longer waited for
const NUDGE_MS = 300; // after the last nudge before it is saved
const SETTLE_MS = 700; // without a key or a pointer's move, before other answers are searched for
const PHOTOS = 6; // photos kept

const ELSEWHERE = "The labeller is open in another view; click here to go on in this one.";

let views = 0;

class App {
  constructor(model, host) {
    this.model = model;
    this.client = `${Date.now()}-${Math.random()}-${views++}`;
    this.labels = model.get("_labels");
    this.state = { ...START, ...model.get("view") };
    this.photos = new Map(); // by index, the one shown last at the end
    this.done = new Set(model.get("_done"));
    this.index = Math.max(0, this.labels.photos.indexOf(model.get("selected")));
    this.active = 0;
    this.selected = null;
    this.serial = 0;
    this.saves = new Map(); // labels to be saved, by photo
    this.unsettled = new Set(); // photos whose labels were saved without a search for other answers
    this.model.set("_viewer", this.client);
    this.model.save_changes();
    this.build(host);
    this.listen();
    this.open(this.index);
    this.redraw();
  }

  build(host) {
    this.stage = new Stage(this);
    this.strip = new Strip(this);
    this.toolbar = new Toolbar(this);
    this.status = new Status(this);
    const introduction = "Drag a joint to where it is in the photo; drag beside the hands to move the photo.";
    this.help = new Help(this, "Label hands", KEYS, introduction);
    this.fault = h("p", { class: "eb-fault", role: "alert", hidden: true });
    const attributes = { class: "eb-root hl-root", tabindex: "0", role: "application", "aria-label": "Hand labeller" };
    attributes["data-lm-suppress-shortcuts"] = "true";
    this.element = h("div", attributes, this.toolbar.element, this.fault, this.stage.element);
    this.element.append(this.status.element, this.strip.element, this.help.element);
    host.append(this.element);
    this.showClosed(this.model.get("_closed"));
  }

  listen() {
    this.element.addEventListener("keydown", (event) => pressed(this, event));
    this.watch = new ResizeObserver(() => this.redraw());
    this.watch.observe(this.stage.element);
    this.clock = setInterval(() => this.tick(), 350);
    this.handlers = [
      ["msg:custom", (message, buffers) => this.receive(message, buffers)],
      ["change:selected", () => this.openName(this.model.get("selected"))],
      ["change:view", () => this.adopt(this.model.get("view"))],
      ["change:_closed", () => this.showClosed(this.model.get("_closed"))],
      ["change:_viewer", () => this.showClosed(this.model.get("_closed"))],
      ["change:_done", () => this.mark(this.model.get("_done"))],
    ];
    for (const [name, handler] of this.handlers) this.model.on(name, handler);
    this.element.addEventListener("pointerdown", () => this.takeOver(), { capture: true });
    this.listenToControls();
  }

  /** Take the focus back from a control that was used with a pointer, so that keys are the labeller's: Enter goes on. */
  listenToControls() {
    let pointed = false;
    const note = (event) => (pointed = event.type === "pointerdown");
    for (const kind of ["pointerdown", "keydown"]) this.element.addEventListener(kind, note, { capture: true });
    const leave = ({ type, target }) => {
      const used = type === "click" ? target.closest("button") : target.closest("select, input");
      if (pointed && used && !this.help.element.contains(used) && this.help.element.hidden) this.focus();
    };
    for (const kind of ["click", "change"]) this.element.addEventListener(kind, leave);
  }

  close() {
    for (const [name, handler] of this.handlers) this.model.off(name, handler);
    this.watch.disconnect();
    this.strip.close();
    clearInterval(this.clock);
    this.saveNow();
  }

  // ---- what is shown ------------------------------------------------------------------------------------------------

  get photo() {
    return this.photos.get(this.index);
  }

  get history() {
    return this.photo?.history;
  }

  /** The label before a drag under way. */
  get committed() {
    return this.history?.current;
  }

  get label() {
    return this.draft ?? this.committed;
  }

  get fitted() {
    return this.photo?.fitted;
  }

  /** Why the rig could not be fitted, or nothing. */
  get failure() {
    return this.photo?.failure;
  }

  get writable() {
    return !this.model.get("_closed") && this.model.get("_viewer") === this.client;
  }

  /** Be the one view of the widget in which labels are changed, with the labels as they are now. */
  takeOver() {
    if (this.model.get("_viewer") === this.client || this.model.get("_closed")) return;
    this.model.set("_viewer", this.client);
    this.model.save_changes();
    this.forget();
    this.open(this.index);
  }

  /** Drop what is kept of photos: another view may have changed their labels. */
  forget() {
    for (const photo of this.photos.values()) photo.bitmap.close();
    this.photos.clear();
    this.draft = null;
  }

  get colours() {
    return (this.labels.palettes[this.state.palette] ?? Object.values(this.labels.palettes)[0]).parts;
  }

  /** Where a joint is drawn: where it was placed, else where the rig has it; null where neither is. */
  jointAt(which, joint) {
    return this.label.hands[which].joints[joint] ?? this.fitted?.hands[which]?.pixels[joint] ?? null;
  }

  isSelected(which, joint) {
    return which === this.active && joint === this.selected;
  }

  isAdded(which) {
    return Boolean(this.photo?.added.has(which));
  }

  // ---- photos -------------------------------------------------------------------------------------------------------

  open(index) {
    if (!(index in this.labels.photos)) return;
    this.commitDraft();
    this.saveNow();
    this.index = index;
    this.unopened = null; // the photo shown, where the kernel could not open it
    this.selected = null;
    this.fault.hidden = this.writable;
    Object.assign(this.stage, { whole: true, sized: null, drag: null, hover: null });
    this.last = performance.now();
    if (!this.photo) this.request({ kind: "photo", photo: index });
    else this.keep(index, this.photo);
    if (this.model.get("selected") !== this.labels.photos[index]) {
      this.model.set("selected", this.labels.photos[index]);
      this.model.save_changes();
    }
    this.chooseHand();
    this.redraw();
  }

  openName(name) {
    const index = this.labels.photos.indexOf(name);
    if (index >= 0 && index !== this.index) this.open(index);
  }

  keep(index, photo) {
    this.photos.delete(index);
    this.photos.set(index, photo);
    for (const [key, old] of this.photos) {
      if (this.photos.size <= PHOTOS) break;
      if (key === this.index || this.saves.has(key)) continue;
      old.bitmap.close();
      this.photos.delete(key);
    }
  }

  /** Make the hand that is in the photo the active one. */
  chooseHand() {
    if (this.label && !this.label.hands[this.active] && this.label.hands[1 - this.active]) this.active = 1 - this.active;
  }

  async receivePhoto(message, bytes) {
    const bitmap = await createImageBitmap(new Blob([bytes]));
    const { photo: index, width, height, label, seconds, saved } = message;
    const history = new History(label);
    this.keep(index, { bitmap, width, height, history, seconds, saved, fitted: null, failure: null, added: new Set() });
    if (index !== this.index) return;
    this.stage.showWhole();
    this.chooseHand();
    this.requestFit();
    this.redraw();
  }

  // ---- requests to the kernel ---------------------------------------------------------------------------------------

  request(message) {
    this.model.send({ client: this.client, ...message }, undefined, undefined);
  }

  /** Ask for the rig and the masks of the label shown; while a request is under way, only the newest one is kept. */
  requestFit(live = Boolean(this.draft)) {
    if (!this.label) return;
    this.wanted = { kind: "fit", photo: this.index, label: this.label, live, quick: live, follow: live };
    this.pump();
  }

  /**
   * Have a photo's label saved: `quick`, with the rig moved on from the last fit, else with a search for all answers;
   * with `follow`, the answer stays the one that is shown, even if another is likelier.
   */
  requestSave(index = this.index, quick = false, follow = false) {
    const photo = this.photos.get(index);
    if (!photo || !this.writable) return;
    this.wanted = null;
    this.unsettled.delete(index);
    if (quick) this.unsettled.add(index);
    const label = photo.history.current;
    this.saves.set(index, { kind: "save", photo: index, label, seconds: photo.seconds, quick, follow });
    this.pump();
  }

  /** Save with all answers what was saved quickly: photos that were left at once, the one shown when nobody moves. */
  settle() {
    const now = performance.now();
    for (const index of [...this.unsettled]) {
      const busy = index === this.index && (this.draft || this.timer || now - this.last < SETTLE_MS);
      if (!busy && !this.saves.has(index)) this.requestSave(index, false, true);
    }
  }

  /** Have the next photo read while there is nothing else to do. */
  readAhead() {
    const next = this.index + 1;
    const idle = this.photo?.fitted && !this.pending && !this.unsettled.size && !this.draft;
    if (!idle || this.ahead === next || !(next in this.labels.photos) || this.photos.has(next)) return;
    this.ahead = next;
    this.request({ kind: "ahead", photo: next });
  }

  pump() {
    if (this.pending && performance.now() - this.pending.time < LOST_MS) return;
    const [first] = this.saves.keys();
    const message = first === undefined ? this.wanted : this.saves.get(first);
    this.pending = null;
    if (!message) return;
    if (first === undefined) this.wanted = null;
    else this.saves.delete(first);
    this.serial += 1;
    const { kind, photo } = message;
    this.pending = { serial: this.serial, time: performance.now(), kind, photo };
    this.request({ ...message, serial: this.serial });
  }

  late() {
    return Boolean(this.pending) && performance.now() - this.pending.time > LATE_MS;
  }

  saving() {
    const request = this.pending;
    return this.saves.has(this.index) || (request?.kind === "save" && request.photo === this.index);
  }

  receive(message, buffers) {
    if (message.kind === "thumbnails") return this.strip.receive(message.photos, buffers);
    if (message.client !== this.client) return undefined; // another view of the widget asked for it
    const bytes = buffers.map((buffer) => typed(buffer, Uint8Array));
    if (message.kind === "photo") return this.receivePhoto(message, bytes[0]);
    if (message.kind === "fit") this.receiveFit(message, bytes);
    else if (message.kind === "warnings") this.receiveWarnings(message);
    else if (message.kind === "label") this.receiveLabel(message);
    else if (message.kind === "fault") this.receiveFault(message);
    return undefined;
  }

  receiveFit(message, [masks, front]) {
    if (message.serial === this.pending?.serial) this.pending = null;
    const photo = this.photos.get(message.photo);
    if (photo) {
      photo.failure = message.failure ?? null;
      if (!message.failure) this.takeFit(message.photo, { ...message, masks, front });
      if (message.saved) photo.saved = message.saved;
    }
    this.pump();
    this.redraw();
  }

  /** Show a fit. A quick one has neither warnings nor the number of answers, which stay those of the one before. */
  takeFit(index, fit) {
    const photo = this.photos.get(index);
    const before = photo.fitted;
    photo.fitted = { ...fit, warnings: before?.warnings ?? [] };
    if (fit.quick) {
      fit.hands.forEach((each, which) => each && (each.answers = before?.hands[which]?.answers ?? 0));
    } else if (!this.draft || index !== this.index) this.takeAnswers(photo, fit.answers);
    if (!before && index === this.index) this.stage.showFirst();
  }

  receiveWarnings({ photo, warnings }) {
    const fitted = this.photos.get(photo)?.fitted;
    if (fitted) fitted.warnings = warnings;
    this.redraw();
  }

  /** Note which answer the kernel has taken, where the order of the two has changed. */
  takeAnswers(photo, answers) {
    let label = photo.history.current;
    answers.forEach((answer, which) => {
      const each = label.hands[which];
      if (each && answer !== null && each.answer !== answer) label = withHand(label, which, { ...each, answer });
    });
    if (label !== photo.history.current) photo.history.amend(label);
  }

  receiveLabel({ photo: index, label, added }) {
    const photo = this.photos.get(index);
    if (!photo) return;
    if (added != null) photo.added.add(added);
    photo.history.push(label);
    if (index === this.index) {
      if (added != null) this.active = added;
      this.chooseHand();
    }
    this.requestSave(index);
    this.redraw();
  }

  receiveFault({ text, serial, photo }) {
    if (photo === this.index && !this.photo) this.unopened = photo;
    if (serial !== undefined && serial === this.pending?.serial) this.pending = null;
    this.fault.textContent = text;
    this.fault.hidden = false;
    this.pump();
    this.redraw();
  }

  /** Say why the widget is read only; nothing where it is not. */
  showClosed(closed) {
    const text = closed || (this.writable ? "" : ELSEWHERE);
    if (text) this.fault.textContent = text;
    this.fault.hidden = !text;
    this.redraw();
  }

  mark(done) {
    this.done = new Set(done);
    this.redraw();
  }

  // ---- changes to the label -----------------------------------------------------------------------------------------

  setDraft(label) {
    this.draft = label;
    this.requestFit();
    this.redraw();
  }

  /** End a drag: the rig of the label before it is shown again. */
  dropDraft() {
    if (!this.draft) return;
    this.draft = null;
    this.requestFit(true);
    this.redraw();
  }

  commitDraft() {
    const { draft } = this;
    this.draft = null;
    if (draft) this.commit(draft);
  }

  /** Make a label the current one, to be saved at once or after `delay` ms; `key` is the history's. */
  commit(label, { key = null, delay = 0, quick = true } = {}) {
    if (!this.writable) return;
    this.history.push(label, key);
    this.fault.hidden = true;
    this.saveNow(false);
    if (delay) this.timer = setTimeout(() => this.saveNow(), delay);
    else this.requestSave(this.index, quick, quick);
    this.chooseHand();
    this.redraw();
  }

  /** Save what a nudge has put off. */
  saveNow(save = true) {
    if (!this.timer) return;
    clearTimeout(this.timer);
    this.timer = null;
    if (save) this.requestSave(this.index, true, true);
  }

  travel(step) {
    this.draft = null;
    this.saveNow(false);
    if (!this.writable || !this.history?.go(step)) return;
    this.chooseHand();
    this.requestSave();
    this.redraw();
  }

  select(which, joint) {
    if (this.label?.hands[which]) this.active = which;
    this.selected = this.label?.hands[this.active] ? joint : null;
    this.redraw();
  }

  stepJoint(step) {
    const count = this.labels.joints.length;
    this.select(this.active, this.selected === null ? 0 : (this.selected + step + count) % count);
  }

  /** The active hand with its selected joint, or nothing where none is selected or labels are not to be changed. */
  chosen() {
    const each = this.label?.hands[this.active];
    return this.writable && each && this.selected !== null ? each : null;
  }

  /** Move the selected joint by steps of one CSS px; returns whether there is one. */
  nudge(dx, dy) {
    if (!this.chosen()) return false;
    const { active, selected } = this;
    const point = this.jointAt(active, selected);
    if (!point) return false;
    const moved = [point[0] + dx / this.stage.zoom.scale, point[1] + dy / this.stage.zoom.scale];
    const options = { key: `nudge ${active} ${selected}`, delay: NUDGE_MS };
    this.commit(placeJoint(this.label, active, selected, moved), options);
    return true;
  }

  toggleGuessed() {
    const each = this.chosen();
    if (!each) return;
    const { active, selected } = this;
    const guessed = each.joints[selected] === null || !each.guessed[selected];
    const point = this.jointAt(active, selected);
    if (point) this.commit(placeJoint(this.label, active, selected, point, guessed));
  }

  clearJoint() {
    const each = this.chosen();
    if (each && each.joints[this.selected]) this.commit(clearJoint(this.label, this.active, this.selected));
  }

  flip() {
    const each = this.label?.hands[this.active];
    if (!each || !this.writable || (this.fitted?.hands[this.active]?.answers ?? 0) < 2) return;
    this.commit(withHand(this.label, this.active, { ...each, answer: 1 - each.answer }), { quick: false });
  }

  setFront(front) {
    if (this.label?.hands.every(Boolean)) this.commit({ ...this.label, front });
  }

  swapHands() {
    if (!this.label?.hands.some(Boolean)) return;
    const exchanged = Object.fromEntries(this.labels.hands.map((name, k) => [name, this.labels.hands[1 - k]]));
    this.active = 1 - this.active;
    const [hands, front] = [[...this.label.hands].reverse(), exchanged[this.label.front] ?? this.label.front];
    this.commit({ ...this.label, hands, front }, { quick: false });
  }

  /** Take a hand out of the label, or put it back; one that was never there is added by the kernel. */
  toggleHand(which) {
    if (!this.writable || !this.label) return;
    if (this.label.hands[which]) return this.commit(withHand(this.label, which, null));
    const earlier = this.history.labels.findLast((label) => label.hands[which])?.hands[which];
    this.active = which;
    if (earlier) this.commit(withHand(this.label, which, earlier), { quick: false });
    else this.request({ kind: "add", photo: this.index, label: this.label, hand: which });
  }

  guess() {
    if (this.writable) this.request({ kind: "guess", photo: this.index });
  }

  /** Save the photo as it is and go to the next; one that cannot be opened is passed over. */
  accept() {
    if (!this.label && this.unopened !== this.index) return;
    if (!this.writable && this.label) return;
    if (this.label) this.requestSave();
    this.open(this.following());
  }

  /** The photo after this one; after the last one, the first without a label, if any. */
  following() {
    const { length } = this.labels.photos;
    if (this.index + 1 < length) return this.index + 1;
    return this.labels.photos.findIndex((_, k) => k !== this.index && !this.done.has(k));
  }

  // ---- state of the page --------------------------------------------------------------------------------------------

  set(changes) {
    Object.assign(this.state, changes);
    this.sent = JSON.stringify(this.state);
    this.model.set("view", JSON.parse(this.sent));
    this.model.save_changes();
    this.redraw();
  }

  adopt(view) {
    if (JSON.stringify(view) === this.sent) return;
    Object.assign(this.state, view);
    this.redraw();
  }

  /** Count the time since the last key or move of a pointer, unless it was long ago. */
  lively() {
    const now = performance.now();
    if (this.photo && now - this.last < IDLE_MS) this.photo.seconds += (now - this.last) / 1000;
    this.last = now;
  }

  tick() {
    if (this.pending && performance.now() - this.pending.time > LOST_MS) this.pump();
    this.settle();
    this.readAhead();
    this.redraw();
  }

  redraw() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.toolbar.draw();
      this.status.draw();
      this.strip.draw();
      this.stage.draw();
    });
  }

  focus() {
    this.element.focus({ preventScroll: true });
  }

  focused() {
    return this.element.contains(this.element.getRootNode().activeElement);
  }
}

function render({ model, el }) {
  const app = new App(model, el);
  return () => app.close();
}

export default { render };
