// The kinds of hints that models follow, in plain words.

const SMALL = ["Draw it small, in a few pixels", "small version"];
const WORDS = {
  edges: ["Draw its edges", "edges"], scribble: ["Draw its outlines", "outlines"], line: ["Draw its lines", "lines"], lowres: SMALL, bicubic: SMALL,
  mask: ["Draw its shape", "shape"], boxes: ["Draw its boxes", "boxes"], before: ["Draw the picture to change", "picture to change"], "": ["Draw what it follows", "drawing"],
};

/** The request for a model's hint, and the name of that hint; other kinds have the name that the data give them. */
export const hintWords = ({ hint_kind: kind }) => WORDS[kind] ?? [`Draw a picture to follow, of the kind “${kind}”`, `picture of the kind “${kind}”`];

/** The same word as a title. */
export const capitalise = (word) => word.charAt(0).toUpperCase() + word.slice(1);
