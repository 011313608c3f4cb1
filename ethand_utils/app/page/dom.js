// Small helpers on elements and numbers.

/** An element with attributes (`onclick` and the like become listeners, true an empty attribute) and children. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child != null));
  return element;
}

/** Set a toggle's state, for screen readers too. */
export function press(button, on) {
  button.setAttribute("aria-pressed", String(on));
}

export const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** A score as text: three decimals, a dash where it is not known. */
export const number = (value) => (Number.isFinite(value) ? value.toFixed(3) : "–");

export const share = (value) => (Number.isFinite(value) ? `${Math.round(100 * value)} %` : "–");

/** Size a canvas to the screen's pixels; returns its context, in CSS px. */
export function fit(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const [w, t] = [Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio))];
  if (canvas.width !== w || canvas.height !== t) Object.assign(canvas, { width: w, height: t });
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.imageSmoothingEnabled = false;
  return context;
}

/** A copy of a message's buffer as a typed array. */
export function typed(buffer, Kind) {
  const bytes = new Uint8Array(buffer.buffer ?? buffer, buffer.byteOffset ?? 0, buffer.byteLength);
  return new Kind(bytes.slice().buffer);
}
