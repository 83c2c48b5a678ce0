// Tokens on demand: which of them enter the loss, and how far trainer and sampler are apart on them.

const scientific = (value) => (value === 0 ? "0" : (value < 0 ? "−" : "+") + Math.abs(value).toExponential(1));

// A token of a byte-level vocabulary may be a space or a line's end: it is shown by a mark of its own.
const visible = (text) => text.replaceAll("\n", "↵").replaceAll(" ", "·").replaceAll("\t", "⇥");

function tokenRows(ids, start, texts, facts) {
  return ids.map((id, place) => ({ id, position: start + place, text: texts[id] ?? "", ...facts(place) }));
}

// Whether a token is in the loss: null where nobody recorded it.
const LOSS = { true: ["in", "in the loss", "yes"], false: ["out", "not in the loss", "no"], null: ["may", "in the loss if its trajectory is", "not recorded"] };

// The sampled tokens of a turn, which are in the loss if the trajectory is, and those of the reply, which never are.
function turnRows(turn, texts, isInLoss) {
  const [start, end] = turn.span;
  const sampled = tokenRows(turn.ids, start, texts, (place) => ({
    isInLoss,
    logprob: turn.logprobs[place],
    gap: turn.gaps === null ? null : turn.gaps[place],
  }));
  const outside = () => ({ isInLoss: false, logprob: null, gap: null });
  return [...sampled, ...tokenRows(turn.reply_ids, end, texts, outside)];
}

const largestGap = (rows) => Math.max(...rows.map((row) => Math.abs(row.gap ?? 0)));

// Coloured by the gap, and where there is none by the log-prob: one of -4 or less has the strongest colour.
function tokenStrip(rows) {
  const hasGaps = rows.some((row) => row.gap !== null);
  const largest = hasGaps ? largestGap(rows) : 4;
  const spans = rows.map((row) => {
    const color = tint(hasGaps ? row.gap : row.logprob, largest);
    return element("span", { class: LOSS[row.isInLoss][0], style: background(color), title: factsOf(row) }, row.text || `${row.id} `);
  });
  return element("div", { class: "tokens" }, spans);
}

function factsOf(row) {
  const facts = [`token ${row.position}, id ${row.id}`];
  if (row.logprob !== null) facts.push(`log-prob ${row.logprob.toFixed(3)} (${(100 * Math.exp(row.logprob)).toFixed(1)}%)`);
  if (row.gap !== null) facts.push(`gap ${scientific(row.gap)}`);
  return `${facts.join(", ")}; ${LOSS[row.isInLoss][1]}`;
}

function tokenTable(rows) {
  const heads = ["Position", "Token", "Id", "Log-prob", "Gap", "Loss"];
  const body = rows.map((row) =>
    element(
      "tr", null,
      element("td", null, String(row.position)),
      element("td", null, element("code", null, visible(row.text))),
      element("td", null, String(row.id)),
      element("td", null, row.logprob === null ? "" : row.logprob.toFixed(3)),
      element("td", null, row.gap === null ? "" : scientific(row.gap)),
      element("td", null, LOSS[row.isInLoss][2]),
    ),
  );
  const head = element("tr", null, heads.map((text) => element("th", { scope: "col" }, text)));
  return element("div", { class: "scroll" }, element("table", { class: "facts" }, element("thead", null, head), element("tbody", null, body)));
}

// A closed `details` whose content is made when it is first opened.
function onDemand(summary, make) {
  const open = () => { if (details.children.length === 1) details.append(...make()); };
  const details = element("details", { on: { toggle: open } }, element("summary", null, summary));
  return details;
}

const MASK = {
  true: "Underlined tokens enter the loss, the others do not.",
  false: "None of these tokens enters the loss.",
  null: "Whether the trajectory took part in the loss was not recorded; if it did, the tokens underlined by dots entered it.",
};

function tokenDetails(turn, texts, isInLoss) {
  const [start, end, following] = turn.span;
  const reply = following > end ? `, ${following - end} of the reply` : "";
  return onDemand(`Tokens: ${end - start} sampled${reply}`, () => {
    const rows = turnRows(turn, texts, isInLoss);
    const left = following - start - rows.length;
    const why = isInLoss === false ? "The turn took no part in the loss" : "The trainer's log-probs were not recorded";
    const colours = turn.gaps === null
      ? `${why}, so there is no gap; the colour is the sampler's log-prob.`
      : `The colour is the gap: the trainer's log-prob less the sampler's, at most ${largestGap(rows).toExponential(1)} apart here.`;
    const more = left > 0 ? ` ${counted(left, "token")} more are in the bundle.` : "";
    return [
      element("p", { class: "quiet" }, `${colours} ${MASK[isInLoss]}${more}`),
      tokenStrip(rows),
      onDemand("As a table", () => [tokenTable(rows)]),
    ];
  });
}

function promptTokens(group, texts) {
  return onDemand(`${group.prompt_end} prompt tokens`, () => {
    const rows = tokenRows(group.prompt_ids, 0, texts, () => ({ isInLoss: false, logprob: null, gap: null }));
    const left = group.prompt_end - rows.length;
    const more = left > 0 ? ` ${counted(left, "token")} more are in the bundle.` : "";
    return [element("p", { class: "quiet" }, `None of these tokens enters the loss.${more}`), tokenStrip(rows)];
  });
}
