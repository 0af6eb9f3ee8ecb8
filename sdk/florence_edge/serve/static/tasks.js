// The tasks as people choose them, and how what they type becomes an input.

const GROUPS = [
  ["Describe", ["<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>"]],
  ["Find", ["<OD>", "<OPEN_VOCABULARY_DETECTION>", "<CAPTION_TO_PHRASE_GROUNDING>", "<DENSE_REGION_CAPTION>", "<REGION_PROPOSAL>"]],
  ["Outline", ["<REFERRING_EXPRESSION_SEGMENTATION>", "<REGION_TO_SEGMENTATION>"]],
  ["Read", ["<OCR>", "<OCR_WITH_REGION>", "<REGION_TO_OCR>"]],
  ["About a box", ["<REGION_TO_CATEGORY>", "<REGION_TO_DESCRIPTION>"]],
];

const TITLES = {
  "<CAPTION>": "Describe in a phrase",
  "<DETAILED_CAPTION>": "Describe in a sentence or two",
  "<MORE_DETAILED_CAPTION>": "Describe in a paragraph",
  "<OD>": "Find all objects",
  "<OPEN_VOCABULARY_DETECTION>": "Find objects by name",
  "<CAPTION_TO_PHRASE_GROUNDING>": "Find the phrases of a sentence",
  "<DENSE_REGION_CAPTION>": "Find and describe objects",
  "<REGION_PROPOSAL>": "Find anything that stands out",
  "<REFERRING_EXPRESSION_SEGMENTATION>": "Outline what a phrase means",
  "<REGION_TO_SEGMENTATION>": "Outline what is in a box",
  "<OCR>": "Read all text",
  "<OCR_WITH_REGION>": "Read lines, with their places",
  "<REGION_TO_OCR>": "Read the text in a box",
  "<REGION_TO_CATEGORY>": "Name what is in a box",
  "<REGION_TO_DESCRIPTION>": "Describe what is in a box",
};

const INPUTS = {
  phrase: ["Phrase", "a red cube", ""],
  classes: ["Names", "red cube, ball", "Several names are separated by commas."],
  box: ["Box", "x1, y1, x2, y2", "Drag over the picture, or type its corners in pixels."],
};

/** Fills the choice of tasks from what the server offers; one that has no group comes last. */
export function fillTasks(select, rows) {
  const offered = new Map(rows.map((row) => [row.task, row]));
  for (const [title, tokens] of GROUPS) {
    const group = document.createElement("optgroup");
    group.label = title;
    for (const token of tokens.filter((one) => offered.delete(one))) group.append(new Option(TITLES[token], token));
    if (group.children.length) select.append(group);
  }
  const rest = document.createElement("optgroup");
  rest.label = "Anything else";
  for (const [token, row] of offered) rest.append(new Option(token === "<ASK>" ? "Send a prompt of your own" : row.name, token));
  if (rest.children.length) select.append(rest);
}

/** Label, placeholder and help of an input of that kind; nothing where a task takes none. */
export function inputOf(kind) {
  return INPUTS[kind];
}

/** What was typed as the API takes it; null where it is nothing yet. */
export function readInput(kind, text) {
  const given = text.trim();
  if (!INPUTS[kind] || !given) return null;
  if (kind === "classes") return given.split(",").map((name) => name.trim()).filter(Boolean);
  if (kind === "box") return given.replace(/[[\]]/g, "").split(/[\s,]+/).map(Number);
  return given;
}

/** An input as it is typed. */
export function writeInput(given) {
  return given === null || given === undefined ? "" : Array.isArray(given) ? given.join(", ") : given;
}
