// The table of all samples as typed arrays: values, filters, order, confusion. It knows neither page nor kernel.

import { typed } from "./dom.js";

const CELLS = (labels) => labels.parts.length ** 2;

export class Samples {
  /** `header` and `buffers` as the kernel's `_columns` gives them; `labels` are all names. */
  constructor(header, buffers, labels) {
    this.labels = labels;
    this.rows = Uint32Array.from(header.rows);
    this.ids = header.ids;
    this.count = header.ids.length;
    this.at = new Map(header.ids.map((id, i) => [id, i]));
    this.lower = header.ids.map((id) => id.toLowerCase());
    this.tags = header.tags;
    this.numbers = header.numbers.map((column, k) => ({ ...column, values: typed(buffers[k], Float32Array) }));
    const first = header.numbers.length;
    this.categories = header.categories.map((column, k) => ({
      ...column,
      codes: typed(buffers[first + k], Uint32Array),
    }));
    this.offsets = new Uint32Array(this.count + 1);
    this.cells = new Uint16Array(0);
    this.pixels = new Uint32Array(0);
    this.counted = 0;
    this.derived = new Map();
  }

  /** Append the confusion of the samples from `start` to `stop`, if they follow those already counted. */
  addCounts(start, stop, buffers) {
    if (start !== this.counted) return false;
    if (this.labels.truth) {
      const [offsets, cells, pixels] = [Uint32Array, Uint16Array, Uint32Array].map((Kind, k) =>
        typed(buffers[k], Kind),
      );
      const base = this.offsets[start];
      for (let i = start; i < stop; i++) this.offsets[i + 1] = base + offsets[i - start + 1];
      this.cells = joined(this.cells, base, cells);
      this.pixels = joined(this.pixels, base, pixels);
    }
    const shares = this.labels.other ? typed(buffers[buffers.length - 1], Float32Array) : null;
    if (shares && shares.length === stop - start) this.column("disagreement").values.set(shares, start);
    this.counted = stop;
    this.derived.clear();
    return true;
  }

  column(name) {
    return this.numbers.find((column) => column.name === name);
  }

  category(name) {
    return this.categories.find((column) => column.name === name);
  }

  /** Values to sort by: a column, `part:3` for that part's IoU, `cell:57` for the pixels in a cell of the confusion. */
  values(key) {
    const column = this.column(key);
    if (column) return column.values;
    if (!this.derived.has(key)) {
      const [kind, which] = key.split(":");
      this.derived.set(key, kind === "part" ? this.partIou(Number(which)) : this.cellPixels(Number(which)));
    }
    return this.derived.get(key);
  }

  /** IoU of a part in every sample, both hands' pixels together; NaN where it is in neither mask. */
  partIou(part) {
    const [classes, found] = [this.labels.parts.length, new Float32Array(this.count).fill(NaN)];
    for (let i = 0; i < this.counted; i++) {
      let [both, either] = [0, 0];
      for (let k = this.offsets[i]; k < this.offsets[i + 1]; k++) {
        if (this.cells[k] >= this.labels.hands.length * CELLS(this.labels)) break;
        const cell = this.cells[k] % CELLS(this.labels);
        const [truth, predicted] = [Math.floor(cell / classes), cell % classes];
        if (truth === part || predicted === part) either += this.pixels[k];
        if (truth === part && predicted === part) both += this.pixels[k];
      }
      if (either) found[i] = both / either;
    }
    return found;
  }

  /** Pixels in one cell of the confusion, in every sample. */
  cellPixels(cell) {
    const found = new Float32Array(this.count);
    for (let i = 0; i < this.counted; i++)
      for (let k = this.offsets[i]; k < this.offsets[i + 1]; k++) if (this.cells[k] === cell) found[i] = this.pixels[k];
    return found;
  }

  /** Whether a sample's truth has a part, for every sample. */
  present(part) {
    const key = `present:${part}`;
    if (this.derived.has(key)) return this.derived.get(key);
    const [classes, found] = [this.labels.parts.length, new Uint8Array(this.count)];
    for (let i = 0; i < this.counted; i++)
      for (let k = this.offsets[i]; k < this.offsets[i + 1]; k++) {
        if (this.cells[k] >= this.labels.hands.length * CELLS(this.labels)) break;
        if (Math.floor((this.cells[k] % CELLS(this.labels)) / classes) === part) found[i] = 1;
      }
    this.derived.set(key, found);
    return found;
  }

  /** The predicate of a filter on a sample's index. */
  test(filter) {
    if (filter.kind === "category") {
      const column = this.category(filter.name);
      const code = column ? column.levels.indexOf(filter.value) : -1;
      return (i) => column !== undefined && column.codes[i] === code;
    }
    if (filter.kind === "range") {
      const values = this.values(filter.name);
      return (i) => values[i] >= filter.low && values[i] <= filter.high;
    }
    if (filter.kind === "text") return (i) => this.lower[i].includes(filter.value.toLowerCase());
    if (filter.kind === "part") {
      const present = this.present(filter.part);
      return (i) => present[i] > 0;
    }
    if (filter.kind === "cell") {
      const pixels = this.values(`cell:${filter.cell}`);
      return (i) => pixels[i] > 0;
    }
    return (i) => (this.tags[this.ids[i]] ?? []).includes(filter.value);
  }

  /** Samples that pass every filter, in order of a key; those without a value come last. */
  select(filters, key, descending) {
    const tests = filters.map((filter) => this.test(filter));
    const found = [];
    for (let i = 0; i < this.count; i++) if (tests.every((test) => test(i))) found.push(i);
    const values = key ? this.values(key) : new Float32Array(this.count);
    const rank = Float64Array.from(values, (value) => (Number.isNaN(value) ? Infinity : descending ? -value : value));
    return Uint32Array.from(found.sort((a, b) => (rank[a] === rank[b] ? a - b : rank[a] < rank[b] ? -1 : 1)));
  }

  /** How many samples pass one filter. */
  number(filter) {
    const test = this.test(filter);
    let passed = 0;
    for (let i = 0; i < this.count; i++) passed += test(i);
    return passed;
  }

  /** One matrix of the confusion, added up over some samples: Float64Array [classes · classes], truth by prediction. */
  matrix(number, rows) {
    const [size, total] = [CELLS(this.labels), new Float64Array(CELLS(this.labels))];
    for (const i of rows)
      for (let k = this.offsets[i]; k < this.offsets[i + 1] && i < this.counted; k++)
        if (Math.floor(this.cells[k] / size) === number) total[this.cells[k] % size] += this.pixels[k];
    return total;
  }
}

/** The first `length` of an array that grows by doubling, and `more` behind them. */
function joined(array, length, more) {
  if (array.length < length + more.length) {
    const grown = new array.constructor(Math.max(2 * array.length, length + more.length));
    grown.set(array.subarray(0, length));
    array = grown;
  }
  array.set(more, length);
  return array;
}
