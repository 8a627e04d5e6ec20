// The tokenizer: text in lower case without accents, each word split into the longest known pieces.

const PUNCTUATION = /[\p{P}\p{So}\p{Sk}$+<=>^`|~]/u;

export class Words {
  /** @param {{length: number, pieces: Object<string, number>}} words of the model */
  constructor({ length, pieces }) {
    this.length = length;
    this.pieces = new Map(Object.entries(pieces));
  }

  /** Return the tokens of a text, padded with 0, and notes on what the model cannot read. */
  read(text) {
    const tokens = [];
    const unknown = [];
    for (const word of this.split(text)) {
      const found = this.cut(word);
      if (found) tokens.push(...found);
      else unknown.push(word);
    }
    const kept = tokens.slice(0, this.length);
    const row = new BigInt64Array(this.length);
    kept.forEach((token, i) => (row[i] = BigInt(token)));
    const notes = [];
    if (unknown.length) notes.push(`unknown words: ${unknown.join(", ")}`);
    if (tokens.length > this.length) notes.push(`only the first ${this.length} word pieces count`);
    if (/[()[\]{}]|__/.test(text)) notes.push("brackets and __lists__ have no special meaning here");
    return { row, notes };
  }

  split(text) {
    const plain = text.normalize("NFD").replace(/\p{Mn}/gu, "").toLowerCase();
    const words = [];
    let word = "";
    for (const letter of plain) {
      const alone = PUNCTUATION.test(letter) || /[\u4e00-\u9fff\u3400-\u4dbf]/u.test(letter);
      if (alone || /\s/u.test(letter)) {
        if (word) words.push(word);
        if (alone) words.push(letter);
        word = "";
      } else if (!/\p{C}/u.test(letter)) word += letter;
    }
    if (word) words.push(word);
    return words;
  }

  cut(word) {
    const letters = [...word];
    if (letters.length > 100) return null;
    const found = [];
    for (let start = 0; start < letters.length; ) {
      let end = letters.length;
      let token;
      for (; end > start; end--) {
        const piece = (start ? "##" : "") + letters.slice(start, end).join("");
        token = this.pieces.get(piece);
        if (token !== undefined) break;
      }
      if (token === undefined) return null;
      found.push(token);
      start = end;
    }
    return found;
  }
}
