// Draws an answer over its picture, in pixels of the original image; and lets one draw a box.

const SVG = "http://www.w3.org/2000/svg";
const LETTER = 13; // CSS pixels

/** The items of a result, whatever its form: rings to outline, whether they are filled, a label, a score, a colour. */
export function items(result, colours) {
  if (!result || "text" in result) return [];
  const { scores } = result;
  if ("quads" in result) {
    return result.quads.map((quad, i) => item([quad], true, result.texts[i], scores[i], colours.at(i)));
  }
  if ("boxes" in result) {
    return result.boxes.map((box, i) => {
      const rings = result.polygons[i] ?? [];
      const label = result.labels[i];
      const colour = label ? colours.of(label) : colours.at(i);
      return item(rings.length ? rings : [corners(box)], rings.length > 0, label, scores[i], colour);
    });
  }
  return result.polygons.map((rings, i) => item(rings, true, result.labels[i], scores[i], colours.at(i)));
}

function item(rings, filled, label, score, colour) {
  return { rings, filled, label, score, colour };
}

function corners([x1, y1, x2, y2]) {
  return [[x1, y1], [x2, y1], [x2, y2], [x1, y2]];
}

/** Colours that a label keeps from frame to frame. */
export class Colours {
  constructor(palette) {
    this.palette = palette;
    this.known = new Map();
  }
  at(index) {
    return this.palette[index % this.palette.length];
  }
  of(label) {
    if (!this.known.has(label)) this.known.set(label, this.known.size);
    return this.at(this.known.get(label));
  }
}

export class Overlay {
  constructor(svg) {
    this.svg = svg;
    this.items = [];
    this.size = { width: 1, height: 1 };
    new ResizeObserver(() => this.draw()).observe(svg);
  }

  /** Shows the items of a picture of that size; `about` is a box that was asked about. */
  show(found, size, about = null) {
    this.items = found;
    this.size = size;
    this.about = about;
    this.svg.setAttribute("viewBox", `0 0 ${size.width} ${size.height}`);
    this.svg.setAttribute("aria-label", describe(found));
    this.draw();
  }

  /** Dims everything but one item; -1 shows all alike. */
  choose(index) {
    this.svg.classList.toggle("focused", index >= 0);
    [...this.svg.querySelectorAll(".item")].forEach((node) =>
      node.classList.toggle("chosen", Number(node.dataset.item) === index));
  }

  draw() {
    const unit = this.size.width / (this.svg.clientWidth || this.size.width); // image pixels per CSS pixel
    const shapes = this.items.map((one, index) => shape(one, index));
    const boxes = this.items.map((one) => bounds(one.rings));
    const order = this.items.map((_, i) => i).sort((a, b) => area(boxes[b]) - area(boxes[a]));
    this.svg.replaceChildren(...order.map((i) => shapes[i]));
    const taken = [];
    for (const i of order.reverse()) {
      const tag = label(this.items[i], boxes[i], unit, this.size, taken);
      if (tag) shapes[i].append(tag);
    }
    if (this.about) this.svg.append(rectangle(this.about, "pick"));
  }
}

function shape(one, index) {
  const group = node("g", { class: "item" });
  group.dataset.item = index;
  group.style.setProperty("--c", one.colour[0]);
  group.style.setProperty("--on", one.colour[1]);
  for (const kind of ["under", one.filled ? "shape area" : "shape"]) {
    for (const ring of one.rings) {
      group.append(node("polygon", { class: kind, points: ring.map((point) => point.join(",")).join(" ") }));
    }
  }
  return group;
}

/** A label above its box, or where there is room; cut to the width of the picture. */
function label(one, box, unit, size, taken) {
  const words = [one.label, one.score == null ? "" : one.score.toFixed(2)].filter(Boolean).join(" ");
  if (!words) return null;
  const letter = LETTER * unit;
  const group = node("g", {});
  const text = node("text", { "font-size": letter });
  const most = Math.max(6, Math.floor((0.7 * size.width) / (0.63 * letter)));
  text.textContent = words.length > most ? `${words.slice(0, most - 1)}…` : words;
  const width = text.textContent.length * 0.63 * letter + 0.9 * letter;
  const height = 1.5 * letter;
  const place = best(box, width, height, size, taken);
  taken.push({ ...place, width, height });
  text.setAttribute("x", place.x + width / 2);
  text.setAttribute("y", place.y + height / 2);
  text.setAttribute("text-anchor", "middle");
  text.setAttribute("dominant-baseline", "central");
  group.append(node("rect", { class: "tag", rx: 0.35 * letter, ...place, width, height }), text);
  return group;
}

/** The first place that hides no other label: above, inside at the top, below, inside at the bottom. */
function best(box, width, height, size, taken) {
  const x = Math.max(0, Math.min(box.x1, size.width - width));
  const right = Math.max(0, Math.min(box.x2 - width, size.width - width));
  const places = [box.y1 - height, box.y1, box.y2, box.y2 - height]
    .filter((y) => y >= 0 && y + height <= size.height)
    .flatMap((y) => [{ x, y }, { x: right, y }]);
  const free = places.find((place) => !taken.some((other) => overlap(place, width, height, other)));
  return free ?? places[0] ?? { x, y: Math.max(0, Math.min(box.y1, size.height - height)) };
}

function overlap(place, width, height, other) {
  return place.x < other.x + other.width && other.x < place.x + width
    && place.y < other.y + other.height && other.y < place.y + height;
}

function bounds(rings) {
  const points = rings.flat();
  const xs = points.map((point) => point[0]);
  const ys = points.map((point) => point[1]);
  return { x1: Math.min(...xs), y1: Math.min(...ys), x2: Math.max(...xs), y2: Math.max(...ys) };
}

function area(box) {
  return (box.x2 - box.x1) * (box.y2 - box.y1);
}

function describe(found) {
  if (!found.length) return "Nothing is marked";
  return `${found.length} marked: ${found.slice(0, 20).map((one) => one.label || "a region").join(", ")}`;
}

function rectangle([x1, y1, x2, y2], kind) {
  return node("rect", { class: kind, x: x1, y: y1, width: x2 - x1, height: y2 - y1 });
}

function node(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** Lets one drag a box over the frame while `wanted()`; calls `done` with x1 y1 x2 y2 in pixels of the image. */
export function pickBoxes(frame, overlay, wanted, done) {
  let from = null;
  const at = (event) => {
    const { left, top, width, height } = frame.getBoundingClientRect();
    const inside = (value, limit) => Math.round(Math.max(0, Math.min(limit, value)) * 10) / 10;
    return [
      inside(((event.clientX - left) / width) * overlay.size.width, overlay.size.width),
      inside(((event.clientY - top) / height) * overlay.size.height, overlay.size.height),
    ];
  };
  const box = (to) => [Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.max(from[0], to[0]), Math.max(from[1], to[1])];
  frame.addEventListener("pointerdown", (event) => {
    if (!wanted() || event.button !== 0) return;
    event.preventDefault();
    frame.setPointerCapture(event.pointerId);
    from = at(event);
  });
  frame.addEventListener("pointermove", (event) => {
    if (from) overlay.show([], overlay.size, box(at(event)));
  });
  frame.addEventListener("pointerup", (event) => {
    if (!from) return;
    const picked = box(at(event));
    from = null;
    if (picked[2] - picked[0] >= 1 && picked[3] - picked[1] >= 1) done(picked);
  });
  frame.addEventListener("pointercancel", () => (from = null));
}
