// What keys and buttons do.

export const KEYS = [
  ["drag, Shift + drag", "move a joint, the whole hand"],
  ["arrows", "nudge the selected joint (Shift: farther)"],
  [", and .", "previous, next joint"],
  ["h", "the other hand"],
  ["g", "the joint is a guess, or not"],
  ["x, Delete", "joint not visible: the rig decides"],
  ["f", "flip an ambiguous bend"],
  ["r", "which hand is in front"],
  ["s", "exchange left and right"],
  ["Ctrl+Z, Ctrl+Shift+Z", "undo, redo"],
  ["Enter", "save as it is, next photo"],
  ["n, PageDown / p, PageUp", "next / previous photo"],
  ["o, l, j, m", "masks, outlines, joints, whose masks"],
  ["[ and ]", "opacity"],
  ["+ − 0 z", "zoom in, out, whole photo, hands (also wheel, pinch, double click)"],
  ["? or Escape", "this help, away"],
];

const ACTIONS = {
  n: "next",
  PageDown: "next",
  p: "previous",
  PageUp: "previous",
  Enter: "accept",
  g: "guessed",
  x: "clear",
  Delete: "clear",
  Backspace: "clear",
  f: "flip",
  r: "front",
  s: "swap",
  h: "hand",
  ",": "jointBack",
  ".": "jointOn",
  o: "overlay",
  l: "outline",
  j: "skeleton",
  m: "masks",
  "[": "fainter",
  "]": "stronger",
  "+": "closer",
  "=": "closer",
  "-": "farther",
  0: "whole",
  z: "around",
  "?": "help",
  Escape: "leave",
};
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const FAR = 5; // CSS px of a nudge with Shift
const ZOOM = 1.4;

/** Handle a key. Typing in a field is left alone. */
export function pressed(app, event) {
  app.lively();
  if (event.target.matches("input, select, textarea")) {
    if (event.key === "Escape") app.focus();
    return;
  }
  if (event.target.matches("button") && ["Enter", " "].includes(event.key)) return;
  if (handle(app, event)) {
    event.preventDefault();
    event.stopPropagation();
  }
}

function handle(app, event) {
  const { key } = event;
  if ((event.ctrlKey || event.metaKey) && !event.altKey) {
    const step = { z: event.shiftKey ? "redo" : "undo", y: "redo" }[key.toLowerCase()];
    return Boolean(step) && act(app, step);
  }
  if (event.altKey) return false;
  if (key in ARROWS) return app.nudge(...ARROWS[key].map((step) => step * (event.shiftKey ? FAR : 1)));
  const action = ACTIONS[key];
  if (action === "leave" && app.help.element.hidden && app.selected === null) return false;
  return Boolean(action) && act(app, action);
}

/** Do an action by its name. */
export function act(app, action) {
  const { state, stage } = app;
  const cycle = (values, value) => values[(values.indexOf(value) + 1) % values.length];
  const opacity = (step) => app.set({ opacity: Math.min(1, Math.max(0, Math.round(20 * state.opacity + step) / 20)) });
  const actions = {
    undo: () => app.travel(-1),
    redo: () => app.travel(1),
    next: () => app.open(app.index + 1),
    previous: () => app.open(app.index - 1),
    accept: () => app.accept(),
    guessed: () => app.toggleGuessed(),
    clear: () => app.clearJoint(),
    flip: () => app.flip(),
    front: () => app.setFront(cycle(app.labels.fronts.map(([value]) => value), app.label?.front)),
    swap: () => app.swapHands(),
    hand: () => app.select(1 - app.active, app.selected),
    jointBack: () => app.stepJoint(-1),
    jointOn: () => app.stepJoint(1),
    guess: () => app.guess(),
    masks: () => app.set({ masks: cycle(["both", ...app.labels.hands.map((_, k) => String(k))], state.masks) }),
    fainter: () => opacity(-2),
    stronger: () => opacity(2),
    closer: () => stage.zoomBy(ZOOM),
    farther: () => stage.zoomBy(1 / ZOOM),
    whole: () => stage.showWhole(),
    around: () => stage.showHands(),
    help: () => app.help.toggle(),
    leave: () => (app.help.element.hidden ? app.select(app.active, null) : app.help.toggle(false)),
  };
  if (action in actions) {
    if (app.photo || ["next", "previous", "accept", "help", "leave"].includes(action)) actions[action]();
  } else app.set({ [action]: !state[action] });
  return true;
}
