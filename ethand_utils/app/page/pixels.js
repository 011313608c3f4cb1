// Pixels of samples: requested from the kernel in batches, those in view first, and cached up to KEPT_BYTES.

import { typed } from "./dom.js";

const BATCH = 48; // samples a request
const OPEN = 2; // requests under way
const KEPT_BYTES = 256e6;
const PATIENCE_MS = 20000; // after which a request counts as lost

export class Pixels {
  /** `send` takes a message to the kernel, `changed` is called when pixels have come. */
  constructor(labels, send, changed) {
    Object.assign(this, { labels, send, changed });
    this.kept = new Map(); // by row, the longest unused first
    this.open = new Map(); // rows under way, with the time they were asked for
    this.requests = 0;
    this.wanted = [];
  }

  /** Pixels of a row, or undefined until they have arrived. */
  get(row) {
    const found = this.kept.get(row);
    if (found) {
      this.kept.delete(row);
      this.kept.set(row, found);
    }
    return found;
  }

  /** Ask for rows, the most urgent first; what was wanted before and is not under way is forgotten. */
  want(rows) {
    const late = performance.now() - PATIENCE_MS;
    for (const [row, asked] of this.open) if (asked < late) this.open.delete(row);
    if (!this.open.size) this.requests = 0;
    this.wanted = rows.filter((row) => !this.open.has(row) && (this.kept.get(row)?.small ?? true));
    this.ask();
  }

  ask() {
    while (this.requests < OPEN && this.wanted.length) {
      const rows = this.wanted.splice(0, BATCH);
      for (const row of rows) this.open.set(row, performance.now());
      this.requests += 1;
      this.send({ kind: "pixels", rows });
    }
  }

  /** Store a message's pixels: `rows` of them, `size` px a side, arrays in the kernel's order. */
  receive(rows, buffers, size = this.labels.size, small = false) {
    const names = ["image", "predicted", this.labels.other && "other", this.labels.truth && "truth"];
    names.push(this.labels.front && "front");
    const arrays = buffers.map((buffer) => typed(buffer, Uint8Array));
    rows.forEach((row, i) => {
      const entry = { size, small };
      names.filter(Boolean).forEach((name, k) => {
        const length = arrays[k].length / rows.length;
        entry[name] = arrays[k].subarray(i * length, (i + 1) * length);
      });
      this.kept.delete(row);
      this.kept.set(row, entry);
    });
    if (!small) this.finish(rows, arrays.reduce((sum, array) => sum + array.length, 0) / Math.max(rows.length, 1));
    this.changed();
  }

  finish(rows, bytes) {
    this.requests = Math.max(0, this.requests - 1);
    for (const row of rows) this.open.delete(row);
    const room = Math.max(4 * BATCH, Math.floor(KEPT_BYTES / bytes));
    for (const row of this.kept.keys()) {
      if (this.kept.size <= room) break;
      this.kept.delete(row);
    }
    this.ask();
  }
}
