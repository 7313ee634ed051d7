// Which words of a prompt a model with a small vocabulary does not know, and what may have been meant. Pure.

const WORD = /[\p{L}\p{N}]+(?:['’-][\p{L}\p{N}]+)*/gu;

// The prompt in pieces, in order: {text, isUnknown}. Joined they are the prompt again.
export function pieces(prompt, vocabulary) {
  const known = new Set(vocabulary);
  const found = [];
  let end = 0;
  for (const match of prompt.matchAll(WORD)) {
    if (match.index > end) found.push({ text: prompt.slice(end, match.index), isUnknown: false });
    found.push({ text: match[0], isUnknown: !known.has(match[0].toLowerCase()) });
    end = match.index + match[0].length;
  }
  if (end < prompt.length) found.push({ text: prompt.slice(end), isUnknown: false });
  return found;
}

export function unknownWords(prompt, vocabulary) {
  const words = pieces(prompt, vocabulary).filter((piece) => piece.isUnknown);
  return [...new Set(words.map((piece) => piece.text.toLowerCase()))];
}

// The known word that a misspelt one is nearest to; null where none is near.
export function nearest(word, vocabulary) {
  let best = null;
  let least = word.length < 5 ? 1 : 2;
  for (const candidate of vocabulary) {
    if (candidate.length < 3 || Math.abs(candidate.length - word.length) > least) continue;
    const distance = editDistance(word, candidate);
    if (distance < least || (distance === least && best === null)) {
      best = candidate;
      least = distance;
    }
  }
  return best;
}

// Every place where `word` stands, whatever its case, says `other` instead.
export function replaceWord(prompt, word, other) {
  return prompt.replace(WORD, (found) => (found.toLowerCase() === word ? other : found));
}

function editDistance(a, b) {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const substituted = row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(substituted, row[j] + 1, next[j - 1] + 1));
    }
    row = next;
  }
  return row[b.length];
}
