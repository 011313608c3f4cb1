// Masks as pixels: error codes, blending by tables of 32-bit colours, outlines. Functions are pure but for canvases.

export const BACKGROUND = 0,
  CORRECT = 1,
  MISSED = 2,
  INVENTED = 3,
  WRONG_PART = 4,
  WRONG_HAND = 5;

/** Kind of error of every pixel: prediction and truth of a hand, and the other hand's truth (analysis/confusion.py). */
export function errorCodes(predicted, truth, other) {
  const codes = new Uint8Array(truth.length);
  for (let i = 0; i < codes.length; i++) {
    if (truth[i]) codes[i] = predicted[i] === truth[i] ? CORRECT : predicted[i] ? WRONG_PART : MISSED;
    else if (predicted[i]) codes[i] = other[i] ? WRONG_HAND : INVENTED;
  }
  return codes;
}

/** One hand of an array [2, H, W]. */
export const hand = (masks, which) => masks.subarray((which * masks.length) / 2, ((which + 1) * masks.length) / 2);

/** Labels of one hand of a sample, without hidden parts and, with `occluded`, without visible pixels. */
export function shown(entry, name, which, options, labels) {
  const source = hand(entry[name], which);
  const keep = Uint8Array.from(labels.parts, (_, part) => (options.hidden.has(part) ? 0 : part));
  const front = options.occluded ? entry.front : null;
  const other = labels.in_front[1 - which];
  const result = new Uint8Array(source.length);
  for (let i = 0; i < result.length; i++) if (!front || front[i] === other) result[i] = keep[source[i]];
  return result;
}

/** Error codes of one hand of a sample; hidden parts and, with `occluded`, visible pixels are background. */
export function shownErrors(entry, name, which, options, labels) {
  const [predicted, truth] = [hand(entry[name], which), hand(entry.truth, which)];
  const codes = errorCodes(predicted, truth, hand(entry.truth, 1 - which));
  const gone = Uint8Array.from(labels.parts, (_, part) => !part || options.hidden.has(part));
  const front = options.occluded ? entry.front : null;
  const other = labels.in_front[1 - which];
  for (let i = 0; i < codes.length; i++)
    if ((gone[predicted[i]] && gone[truth[i]]) || (front && front[i] !== other)) codes[i] = BACKGROUND;
  return codes;
}

/** Both hands' labels as one: where both have a part, the hand in front. */
export function together(left, right, front, leftInFront) {
  const result = new Uint8Array(left.length);
  for (let i = 0; i < result.length; i++) {
    const both = left[i] && right[i];
    result[i] = both ? (front && front[i] === leftInFront ? left[i] : right[i]) : left[i] || right[i];
  }
  return result;
}

/** Blend labels in their colours [k][3] over an image (RGB bytes) into 32-bit pixels; label 0 shows the image. */
export function blend(target, image, label, colours, opacity, dim = 1) {
  // Tables of a label's share of each channel and of what is left of the image, in 256ths.
  const [red, green, blue] = [0, 1, 2].map((k) => Int32Array.from(colours, (colour) => 256 * opacity * colour[k]));
  const keep = Int32Array.from(colours, () => 256 * dim * (1 - opacity));
  const plain = Math.round(256 * dim);
  for (let i = 0, j = 0; i < target.length; i++, j += 3) {
    const part = label === null ? 0 : label[i];
    target[i] = part
      ? 0xff000000 |
        (((keep[part] * image[j + 2] + blue[part]) >> 8) << 16) |
        (((keep[part] * image[j + 1] + green[part]) >> 8) << 8) |
        ((keep[part] * image[j] + red[part]) >> 8)
      : 0xff000000 |
        (((plain * image[j + 2]) >> 8) << 16) |
        (((plain * image[j + 1]) >> 8) << 8) |
        ((plain * image[j]) >> 8);
  }
}

/** Edges of every label as paths in the mask's px, by label. */
export function outlines(label, size) {
  const paths = new Map();
  const edge = (part, x0, y0, x1, y1) => {
    if (!part) return;
    if (!paths.has(part)) paths.set(part, new Path2D());
    paths.get(part).moveTo(x0, y0);
    paths.get(part).lineTo(x1, y1);
  };
  for (let y = 0; y < size; y++)
    for (let x = 0; x < size; x++) {
      const part = label[y * size + x];
      const [right, below] = [x + 1 < size ? label[y * size + x + 1] : 0, y + 1 < size ? label[(y + 1) * size + x] : 0];
      if (part !== right) edge(part || right, x + 1, y, x + 1, y + 1);
      if (part !== below) edge(part || below, x, y + 1, x + 1, y + 1);
      if (x === 0) edge(part, 0, y, 0, y + 1);
      if (y === 0) edge(part, x, 0, x + 1, 0);
    }
  return paths;
}

const scratch = new Map();

/** A canvas of `size` px with its 32-bit pixels to draw into; shared by all who ask for the same size. */
export function buffer(size) {
  if (!scratch.has(size)) {
    const canvas = Object.assign(document.createElement("canvas"), { width: size, height: size });
    const data = canvas.getContext("2d").createImageData(size, size);
    const pixels = new Uint32Array(data.data.buffer);
    scratch.set(size, { canvas, data, pixels, put: () => canvas.getContext("2d").putImageData(data, 0, 0) });
  }
  return scratch.get(size);
}
