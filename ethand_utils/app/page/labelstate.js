// A photo's label while it is edited: pure functions on { hands: [hand | null, hand | null], front }, and its history.
// A hand is { joints: [[x, y] | null, …], guessed: [bool, …], answer }, in px of the photo; null: not placed.

const COALESCE_MS = 1000; // nudges of one joint that follow each other within this time are undone as one

/** The label with another `hand` (null: absent) on the left (0) or right (1). */
export const withHand = (label, which, hand) => ({
  ...label,
  hands: label.hands.map((old, k) => (k === which ? hand : old)),
});

const replaced = (list, index, value) => list.map((old, k) => (k === index ? value : old));

/** Put a joint at `point`, placed by the labeller or, with `guessed`, as a guess. */
export function placeJoint(label, which, joint, point, guessed = false) {
  const hand = label.hands[which];
  return withHand(label, which, {
    ...hand,
    joints: replaced(hand.joints, joint, point),
    guessed: replaced(hand.guessed, joint, guessed),
  });
}

/** Take a joint's position away, so that the rig decides where it is. */
export const clearJoint = (label, which, joint) => placeJoint(label, which, joint, null);

/** Move a whole hand by (dx, dy) px. */
export function moveHand(label, which, dx, dy) {
  const hand = label.hands[which];
  const joints = hand.joints.map((point) => point && [point[0] + dx, point[1] + dy]);
  return withHand(label, which, { ...hand, joints });
}

/**
 * Put a joint of a hand that was added as a mere outline: the joints still guessed follow, moved with the first joint
 * placed, turned and scaled about it with the second. Later joints move alone.
 */
export function placeOfAdded(label, which, joint, point) {
  const hand = label.hands[which];
  const others = hand.joints.flatMap((p, k) => (p && !hand.guessed[k] && k !== joint ? [p] : []));
  const from = hand.joints[joint];
  if (!from || others.length > 1) return placeJoint(label, which, joint, point);
  const centre = others[0] ?? from;
  const turn = others.length ? ratio(from, point, centre) : [1, 0];
  const shift = others.length ? [0, 0] : [point[0] - from[0], point[1] - from[1]];
  const joints = hand.joints.map((p, k) => (p && hand.guessed[k] ? moved(p, centre, turn, shift) : p));
  return placeJoint(withHand(label, which, { ...hand, joints }), which, joint, point);
}

/** The turn and scaling about `centre`, as a complex number, that takes one point to another. */
function ratio(from, to, [cx, cy]) {
  const [a, b, c, d] = [from[0] - cx, from[1] - cy, to[0] - cx, to[1] - cy];
  const length = a * a + b * b;
  return length < 1e-6 ? [1, 0] : [(a * c + b * d) / length, (a * d - b * c) / length];
}

function moved([x, y], [cx, cy], [re, im], [dx, dy]) {
  const [u, v] = [x - cx, y - cy];
  return [cx + re * u - im * v + dx, cy + im * u + re * v + dy];
}

/** The labels of one photo in the order they were made, to go back and forth in. */
export class History {
  constructor(label) {
    this.labels = [label];
    this.index = 0;
    this.key = null;
  }

  get current() {
    return this.labels[this.index];
  }

  get canUndo() {
    return this.index > 0;
  }

  get canRedo() {
    return this.index + 1 < this.labels.length;
  }

  /** Add a label; one with the same `key` as the last, soon after it, takes its place. */
  push(label, key = null) {
    const now = performance.now();
    const again = key !== null && key === this.key && now - this.time < COALESCE_MS && this.canUndo;
    this.labels.length = this.index + (again ? 0 : 1);
    this.labels.push(label);
    this.index = this.labels.length - 1;
    Object.assign(this, { key, time: now });
  }

  /** Put a label in the place of the current one. */
  amend(label) {
    this.labels[this.index] = label;
  }

  /** Go `step` labels back (−1) or forth (1); returns whether there was one. */
  go(step) {
    if (!(this.index + step in this.labels)) return false;
    this.index += step;
    this.key = null;
    return true;
  }
}
