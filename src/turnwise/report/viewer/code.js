// What a turn says: prose, and code blocks with the words of Python in colour.

const PYTHON = new RegExp(
  [
    "(?<comment>#[^\\n]*)",
    "(?<string>(?:\\b[rbfu]{1,2})?(?:\"\"\"[\\s\\S]*?(?:\"\"\"|$)|'''[\\s\\S]*?(?:'''|$)|\"(?:\\\\.|[^\"\\\\\\n])*\"?|'(?:\\\\.|[^'\\\\\\n])*'?))",
    "\\b(?<keyword>and|as|assert|break|class|continue|def|del|elif|else|except|False|finally|for|from|if|import|in|is|lambda|None|not|or|pass|raise|return|True|try|while|with|yield)\\b",
    "\\b(?<number>\\d[\\w.]*)",
  ].join("|"),
  "g",
);

function coloured(code) {
  const made = element("code");
  let end = 0;
  for (const match of code.matchAll(PYTHON)) {
    const kind = Object.keys(match.groups).find((name) => match.groups[name] !== undefined);
    made.append(code.slice(end, match.index), element("span", { class: kind }, match[0]));
    end = match.index + match[0].length;
  }
  made.append(code.slice(end));
  return element("pre", null, made);
}

// Prose and blocks in order. A block begins at a line of three backticks or more and ends at a line of as many, or
// with the turn.
function blocksOf(text) {
  const blocks = [{ isCode: false, lines: [] }];
  let fence = null;
  for (const line of text.split("\n")) {
    const ticks = /^[ \t]*(`{3,})([^`]*)$/.exec(line);
    if (ticks !== null && fence === null) {
      fence = ticks[1];
      blocks.push({ isCode: true, lines: [] });
    } else if (ticks !== null && ticks[1].length >= fence.length && !ticks[2].trim()) {
      fence = null;
      blocks.push({ isCode: false, lines: [] });
    } else {
      blocks[blocks.length - 1].lines.push(line);
    }
  }
  return blocks.map(({ isCode, lines }) => ({ isCode, text: lines.join("\n") }));
}

function turnText(text) {
  const shown = blocksOf(text).filter((block) => block.text.trim());
  if (!shown.length) return [element("p", { class: "quiet" }, "(empty turn)")];
  return shown.map((block) =>
    block.isCode ? coloured(block.text) : element("p", { class: "message", dir: "auto" }, block.text.trim()),
  );
}
