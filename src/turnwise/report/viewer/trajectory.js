// One trajectory: a column of turns, each with its credit, what it says and what the tool answered.

function verdict(one) {
  if (isOf(one, "outcome", "excluded")) return element("span", { class: "quiet" }, "excluded");
  const isCorrect = isOf(one, "outcome", "correct");
  return element("span", { class: isCorrect ? "yes" : "no" }, isCorrect ? "✓ correct" : "✗ wrong");
}

// The reward of a turn as the sum that it is: one entry for each term that is not 0.
function creditList(turn) {
  const entry = (name, value, ...more) => element("div", null, element("dt", null, name), element("dd", null, signed(value), ...more));
  const terms = Object.entries(turn.terms).map(([name, value]) =>
    element("li", null, element("span", { class: `swatch term-${name}`, "aria-hidden": "true" }), `${words(name)} ${signed(value)}`),
  );
  const split = terms.length ? element("ul", { class: "terms", "aria-label": "Terms of the reward" }, terms) : null;
  return element("dl", { class: "credit" }, entry("Reward", turn.reward, split), entry("Return", turn.return));
}

function toolResult(turn) {
  if (turn.result === null) return null;
  const [status, output, seconds] = turn.result;
  return element(
    "div", { class: status === "ok" ? "tool" : "tool bad" },
    element("p", { class: "meta" }, element("strong", null, `Tool: ${words(status)}`), ` in ${seconds.toFixed(2)} s`),
    element("pre", { dir: "auto" }, output || "(no output)"),
  );
}

function turnCard(turn, number, { largest, texts, isInLoss, isCorrect }) {
  const color = tint(turn.advantage, largest);
  const cut = turn.finish === "stop" ? null : element("p", { class: "badge" }, `Cut short: ${words(turn.finish)}`);
  const where = isCorrect ? "lowered in a correct trajectory" : "raised in a wrong trajectory";
  const against = turn.against ? element("p", { class: "badge" }, `Against the outcome: ${where}`) : null;
  return element(
    "article", { class: "turn", tabindex: "-1" },
    element(
      "header", { style: background(color) },
      element("h4", null, `Turn ${number}`),
      element("span", { class: "advantage" }, `advantage ${signed(turn.advantage)}`),
    ),
    creditList(turn),
    against,
    cut,
    turnText(turn.text),
    turn.errors.map((error) => element("p", { class: "tool bad" }, element("strong", null, "Malformed call: "), error)),
    toolResult(turn),
    tokenDetails(turn, texts, isInLoss),
  );
}

function peersLine(one, group, jump) {
  if (!one.peers.length) return null;
  const buttons = one.peers.flatMap(([place, likeness], index) => {
    const name = `sample ${group.trajectories[place].sample}`;
    return [index ? ", " : "", element("button", { type: "button", class: "link", on: { click: () => jump(place) } }, name), ` (${likeness.toFixed(2)} alike)`];
  });
  return element("p", { class: "meta" }, "Shaping compared its code with ", buttons);
}

// Whether it took part in the loss: if the trainer's log-probs of it were kept. Of a run that kept none at all nobody
// knows (null), but that what is excluded never does.
function partInLoss(one, hasTrainer) {
  if (isOf(one, "outcome", "excluded")) return false;
  return hasTrainer ? one.turns.some((turn) => turn.gaps !== null) : null;
}

function trajectoryColumn(one, place, group, { jump, hasTrainer, ...how }) {
  const isInLoss = partInLoss(one, hasTrainer);
  const answer = one.answer === null ? "gave no answer" : ["answered ", element("bdi", null, one.answer)];
  return element(
    "section", { class: "column", id: `sample-${place}`, "aria-labelledby": `title-${place}` },
    element(
      "div", { class: "column-head" },
      element("h3", { id: `title-${place}`, tabindex: "-1" }, `Sample ${one.sample} `, verdict(one)),
      element("p", { class: "meta" }, answer, `; stopped: ${words(one.kinds.stop[0])}; ${counted(one.num_tokens, "token")}${isInLoss === false ? "; not in the loss" : ""}`),
      peersLine(one, group, jump),
    ),
    one.turns.map((turn, index) => turnCard(turn, index + 1, { ...how, isInLoss, isCorrect: isOf(one, "outcome", "correct") })),
  );
}
