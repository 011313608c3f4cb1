// Keys that work in every view.

/** Handle a key: by the view, or as a command of every view. Typing in a field is left alone. */
export function pressed(app, event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape" && !app.help.element.hidden) return app.help.toggle(false);
  if (event.target.matches("input, select, textarea")) {
    if (event.key === "Escape") app.focus();
    if (event.target.type !== "range" || event.key.startsWith("Arrow")) return;
  }
  if (event.target.matches("button") && ["Enter", " "].includes(event.key)) return;
  const view = app.views[app.state.mode] ?? app.views.gallery;
  if (view.key(event) || command(app, event.key)) {
    event.preventDefault();
    event.stopPropagation();
  }
}

/** Run the command of a key; returns whether it has one. */
export function command(app, key) {
  const { state, labels } = app;
  const flip = (name) => app.set({ [name]: !state[name] });
  const modes = { g: "gallery", d: "detail", m: "confusion" };
  if (key === "[" || key === "]") {
    const opacity = Math.round(20 * state.opacity + (key === "]" ? 2 : -2)) / 20;
    app.set({ opacity: Math.min(1, Math.max(0, opacity)) });
  } else if (key === "o") flip("overlay");
  else if (key === "l") flip("outline");
  else if (key === "e" && labels.truth) flip(app.errorFlag);
  else if (key === "h" && labels.front) flip("occluded");
  else if (key === "c" && labels.other) flip("compare");
  else if (key === "?") app.help.toggle();
  else if (labels.groups[Number(key) - 1]) app.toggleParts(labels.groups[Number(key) - 1].parts);
  else if (modes[key] in app.views) app.set({ mode: modes[key] });
  else return false;
  return true;
}
