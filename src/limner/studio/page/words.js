// How much the words of a prompt count, as people type it: "a (red:1.4) apple". As limner.contract.emphasis reads it.

const STEP = 1.1, OPENING = { ")": "(", "]": "[" }, SIGNS = "()[]\\";
export const MOST = 10;

/** Where each bracket that has a partner opens and closes. */
function partners(prompt) {
  const found = new Map(), opened = [], waiting = { "(": 0, "[": 0 };
  for (let i = 0; i < prompt.length; i++) {
    const sign = prompt[i];
    if (sign === "\\") i++;
    else if (sign in waiting) {
      opened.push(i);
      waiting[sign]++;
    } else if (waiting[OPENING[sign]]) {
      while (prompt[opened.at(-1)] !== OPENING[sign]) waiting[prompt[opened.pop()]]--; // those are ordinary signs
      waiting[OPENING[sign]]--;
      found.set(opened.pop(), i);
    }
  }
  return found;
}

/** Where the words in a pair of brackets end, and what their weight is multiplied by. */
function factor(prompt, start, end) {
  if (prompt[start] === "[") return [end, 1 / STEP];
  let first = end;
  while (first > start + 1 && "0123456789+-. ".includes(prompt[first - 1])) first--;
  const typed = prompt.slice(first, end).trim();
  if (prompt[first - 1] !== ":" || !/^[-+]?(?:\d+\.?\d*|\.\d+)$/.test(typed)) return [end, STEP];
  return [first - 1, Math.max(0, Math.min(MOST, Number(typed)))];
}

/** A prompt without its brackets and numbers, and how much each of its letters counts. */
export function emphasis(prompt) {
  const pairs = partners(prompt), letters = [], weights = [], within = [];
  let weight = 1;
  for (let i = 0; i < prompt.length; i++) {
    if (within.length && i === within.at(-1)[0]) [, i, weight] = within.pop();
    else if (pairs.has(i)) {
      const end = pairs.get(i), [last, times] = factor(prompt, i, end);
      within.push([last, end, weight]);
      weight = Math.min(weight * times, MOST);
    } else {
      if (prompt[i] === "\\" && i + 1 < prompt.length && SIGNS.includes(prompt[i + 1])) i++;
      letters.push(prompt[i]);
      weights.push(weight);
    }
  }
  return { text: letters.join(""), weights };
}

const rounded = (weight) => Math.round(100 * weight) / 100;

/** The prompt that `emphasis` reads so, to hundredths. */
function written({ text, weights }) {
  let prompt = "";
  for (let i = 0, end; i < text.length; i = end) {
    for (end = i + 1; end < text.length && rounded(weights[end]) === rounded(weights[i]);) end++;
    const part = text.slice(i, end).replace(/[()[\]\\]/g, "\\$&"), weight = rounded(weights[i]);
    prompt += weight === 1 ? part : `(${part}:${weight})`;
  }
  return prompt;
}

/** The words of a prompt: what is written, where in its plain text, how much it counts. */
export function wordsOf(prompt) {
  const { text, weights } = emphasis(prompt);
  return [...text.matchAll(/[\p{L}\p{N}]+(?:['’-][\p{L}\p{N}]+)*/gu)].map(({ 0: word, index }) => ({ word, index, weight: rounded(weights[index]) }));
}

/** The prompt in which a word, by its place among the words, counts so much. */
export function weighed(prompt, place, weight) {
  const read = emphasis(prompt), { word, index } = wordsOf(prompt)[place];
  read.weights.fill(weight, index, index + word.length);
  return written(read);
}
