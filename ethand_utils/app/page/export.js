// Files that the page itself makes: a picture of what is drawn, a table of what is listed.

import { h } from "./dom.js";

/** Everything drawn in the view, as one picture. */
export function savePicture(app) {
  const place = app.main.getBoundingClientRect();
  const ratio = window.devicePixelRatio || 1;
  const sheet = Object.assign(document.createElement("canvas"), {
    width: place.width * ratio,
    height: place.height * ratio,
  });
  const context = sheet.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.scale(ratio, ratio);
  context.fillStyle = getComputedStyle(app.element).backgroundColor;
  context.fillRect(0, 0, place.width, place.height);
  for (const canvas of app.main.querySelectorAll("canvas")) {
    const { left, top, width, height } = canvas.getBoundingClientRect();
    if (width) context.drawImage(canvas, left - place.left, top - place.top, width, height);
  }
  sheet.toBlob((blob) => download(blob, `${app.labels.name}-${app.state.mode}.png`));
}

/** The table of the samples that pass the filters, in order. */
export function saveTable(app) {
  const { numbers, categories, ids, tags } = app.samples;
  const quote = (text) => `"${String(text).replaceAll('"', '""')}"`;
  const lines = [["id", ...numbers.map(({ name }) => name), ...categories.map(({ name }) => name), "tags"].join()];
  for (const i of app.rows) {
    const values = numbers.map(({ values }) => (Number.isNaN(values[i]) ? "" : values[i]));
    const levels = categories.map(({ levels, codes }) => quote(levels[codes[i]]));
    lines.push([quote(ids[i]), ...values, ...levels, quote((tags[ids[i]] ?? []).join("; "))].join());
  }
  download(new Blob([`${lines.join("\n")}\n`], { type: "text/csv" }), `${app.labels.name}.csv`);
}

function download(blob, name) {
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
