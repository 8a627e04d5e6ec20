// The weights of words in a prompt, such as "a (red:1.4) apple", read as limner.contract.emphasis reads them.

const STEP = 1.1, OPENING = { ")": "(", "]": "[" }, SIGNS = "()[]\\";
export const MOST = 10;

/** The positions where each bracket that has a partner opens and closes. */
function partners(prompt) {
  const closing = new Map(), opened = [], waiting = { "(": 0, "[": 0 };
  for (let i = 0; i < prompt.length; i++) {
    const sign = prompt[i];
    if (sign === "\\") i++;
    else if (sign in waiting) {
      opened.push(i);
      waiting[sign]++;
    } else if (waiting[OPENING[sign]]) {
      while (prompt[opened.at(-1)] !== OPENING[sign]) waiting[prompt[opened.pop()]]--; // unmatched brackets are ordinary characters
      waiting[OPENING[sign]]--;
      closing.set(opened.pop(), i);
    }
  }
  return closing;
}

/** The position where the words in a pair of brackets end, and the factor of their weight. */
function factor(prompt, start, end) {
  if (prompt[start] === "[") return [end, 1 / STEP];
  let first = end;
  while (first > start + 1 && "0123456789+-. ".includes(prompt[first - 1])) first--;
  const typed = prompt.slice(first, end).trim();
  if (prompt[first - 1] !== ":" || !/^[-+]?(?:\d+\.?\d*|\.\d+)$/.test(typed)) return [end, STEP];
  return [first - 1, Math.max(0, Math.min(MOST, Number(typed)))];
}

/** A prompt without its brackets and numbers, and the weight of each of its letters. */
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

/** The inverse of `emphasis`: the prompt with brackets, and with weights rounded to hundredths. */
function written({ text, weights }) {
  let prompt = "";
  for (let i = 0, end; i < text.length; i = end) {
    for (end = i + 1; end < text.length && rounded(weights[end]) === rounded(weights[i]);) end++;
    const part = text.slice(i, end).replace(/[()[\]\\]/g, "\\$&"), weight = rounded(weights[i]);
    prompt += weight === 1 ? part : `(${part}:${weight})`;
  }
  return prompt;
}

/** The words of a prompt, each with its position in the plain text and its weight; the name of a list, such as __animal__, is one word. */
export function wordsOf(prompt) {
  const { text, weights } = emphasis(prompt);
  return [...text.matchAll(/__[a-z0-9]+(?:-[a-z0-9]+)*__|[\p{L}\p{N}]+(?:['’-][\p{L}\p{N}]+)*/gu)].map(({ 0: word, index }) => ({ word, index, weight: rounded(weights[index]) }));
}

/** The prompt with a new weight for a word, which is given by its place among the words. */
export function withWeight(prompt, place, weight) {
  const read = emphasis(prompt), { word, index } = wordsOf(prompt)[place];
  read.weights.fill(weight, index, index + word.length);
  return written(read);
}
