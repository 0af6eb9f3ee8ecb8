// Where an answer is shown: the picture with its overlay, the text, the list, and where the time went.

import { list, times } from "./answer.js";
import { Colours, Overlay, items } from "./overlay.js";

const $ = (id) => document.getElementById(id);

export class Stage {
  constructor() {
    this.overlay = new Overlay($("overlay"));
    this.colours = null;
  }

  set palette(colours) {
    this.colours = new Colours(colours);
  }

  get empty() {
    return $("frame").hidden;
  }

  /** Puts a picture on the stage; returns its size once it is there, and rejects what is no picture. */
  async picture(blob, size = null) {
    const picture = new Image();
    picture.src = URL.createObjectURL(blob);
    picture.alt = "The picture that is asked about";
    try {
      await picture.decode();
    } finally {
      URL.revokeObjectURL(picture.src);
    }
    const found = size ?? { width: picture.naturalWidth, height: picture.naturalHeight };
    const frame = $("frame");
    frame.querySelector("img").replaceWith(picture);
    frame.style.aspectRatio = `${found.width} / ${found.height}`;
    frame.style.width = `min(100%, ${(66 * found.width) / found.height}vh)`;
    frame.hidden = false;
    return found;
  }

  /** Takes the picture away. */
  clear() {
    this.forget();
    $("frame").hidden = true;
  }

  /** Takes an earlier answer away, and marks nothing on a picture of that size. */
  forget(size = this.overlay.size) {
    this.overlay.show([], size);
    for (const id of ["text", "found", "written", "times"]) $(id).hidden = true;
    this.say("");
    this.complain("");
  }

  /** Makes room for an answer that is about to be written, as a text or as a text with places. */
  begin(isText) {
    this.target = isText ? $("text") : $("raw");
    this.fresh = true;
    $("text").hidden = !isText;
    $("text").classList.toggle("writing", isText);
    $("text").setAttribute("aria-busy", String(isText));
    for (const id of ["found", "written"]) $(id).hidden = isText;
  }

  /** Adds a piece of the answer; the one before it gives way to the first. */
  write(piece) {
    if (this.fresh) this.target.textContent = "";
    this.fresh = false;
    this.target.append(piece);
  }

  /** Shows a whole answer; `about` is the box that was asked about. */
  finish(result, timings, about = null) {
    const isText = "text" in result;
    const found = items(result, this.colours);
    this.begin(isText);
    this.settle();
    this.complain("");
    this.overlay.show(found, result.size, about);
    if (isText) $("text").textContent = result.text || "(nothing)";
    else list($("regions"), found, (index) => this.overlay.choose(index));
    $("raw").textContent = result.raw;
    $("times").hidden = false;
    times({ total: $("total"), bar: $("bar"), stages: $("stages") }, timings);
  }

  /** Nothing more is being written. */
  settle() {
    $("text").classList.remove("writing");
    $("text").setAttribute("aria-busy", "false");
    this.wait(false);
  }

  /** Dims what is marked while something newer is asked. */
  wait(waiting) {
    $("frame").classList.toggle("waiting", waiting);
  }

  say(text) {
    $("status").textContent = text;
  }

  complain(text) {
    $("trouble").hidden = !text;
    $("trouble").textContent = text;
  }
}
