// Shows an answer beside its picture: the list of what was found, the text, and where the time went.

const STAGES = ["queue", "load", "preprocess", "vision", "search", "parse"];
const NAMES = { queue: "waiting", load: "reading", preprocess: "resizing", vision: "image encoder", search: "answer", parse: "parsing" };

/** Fills the list of regions; `choose` is called with an item's index while it is pointed at, and with -1 after. */
export function list(target, found, choose) {
  const rows = found.map((one, index) => {
    const row = element("li", "", { tabIndex: 0 });
    row.style.setProperty("--c", one.colour[0]);
    const score = one.score == null ? "–" : one.score.toFixed(2);
    row.append(
      element("span", "dot"),
      element("span", "name", { textContent: one.label || "region", title: one.label || "region" }),
      element("span", "score", { textContent: score }),
    );
    row.addEventListener("pointerenter", () => choose(index));
    row.addEventListener("pointerleave", () => choose(-1));
    row.addEventListener("focus", () => choose(index));
    row.addEventListener("blur", () => choose(-1));
    return row;
  });
  target.replaceChildren(...(rows.length ? rows : [element("li", "none", { textContent: "Nothing." })]));
}

/** Fills the bar and the list of stages with milliseconds. */
export function times(parts, timings) {
  const known = STAGES.filter((stage) => timings[stage] !== undefined);
  const total = known.reduce((sum, stage) => sum + timings[stage], 0);
  parts.total.textContent = milliseconds(total);
  parts.bar.replaceChildren(...known.map((stage) => {
    const piece = element("i", "");
    piece.style.setProperty("--stage", `var(--${stage})`);
    piece.style.flexGrow = (1000 * timings[stage]) / total;
    return piece;
  }));
  parts.stages.replaceChildren(...known.map((stage) => {
    const row = element("div", "");
    row.style.setProperty("--stage", `var(--${stage})`);
    row.append(element("dt", "", { textContent: NAMES[stage] }), element("dd", "", { textContent: milliseconds(timings[stage]) }));
    return row;
  }));
}

export function milliseconds(value) {
  if (value >= 1000) return `${(value / 1000).toFixed(2)} s`;
  return value >= 10 ? `${value.toFixed(0)} ms` : `${value.toFixed(1)} ms`;
}

export function element(name, kind, properties = {}) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  return Object.assign(made, properties);
}
