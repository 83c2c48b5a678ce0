// One group: its problem, the matrix of samples and turns, and its trajectories side by side.

function showProblem(group, texts) {
  const messages = group.prompt.map(([role, content], place) => {
    const text = element("div", { class: "message", dir: "auto" }, content);
    const isQuestion = place === group.prompt.length - 1;
    return isQuestion ? text : element("details", null, element("summary", null, role), text);
  });
  const expected = element("p", { class: "meta" }, "expected ", element("bdi", null, group.gold), "; ", element("bdi", null, group.source), ", ", element("bdi", null, group.id));
  byId("problem-text").replaceChildren(...messages, expected, promptTokens(group, texts));
}

function cellOf(turn, name, largest, choose) {
  const notes = [
    turn.against ? "against" : null,
    turn.errors.length ? "format" : null,
    turn.result && turn.result[0] !== "ok" ? words(turn.result[0]) : null,
  ].filter(Boolean);
  const about = notes.length ? notes.join(", ") : `reward ${signed(turn.reward)}`;
  const label = `${name}: advantage ${signed(turn.advantage)}, reward ${signed(turn.reward)}${notes.map((note) => `, ${note}`).join("")}`;
  const attributes = { type: "button", tabindex: "-1", style: background(tint(turn.advantage, largest)), "aria-label": label };
  return element("button", { ...attributes, on: { click: choose } }, element("b", null, signed(turn.advantage)), element("small", null, about));
}

// One stop for the tabulator in the whole matrix; the arrow keys move inside, over the places where a turn is missing.
function moveInMatrix(event) {
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (step === undefined) return;
  event.preventDefault();
  const rows = [...event.currentTarget.rows];
  let { rowIndex: row, cellIndex: column } = { rowIndex: event.target.closest("tr").rowIndex, cellIndex: event.target.closest("th, td").cellIndex };
  let goal;
  do {
    row += step[0];
    column += step[1];
    goal = rows[row]?.cells[column]?.querySelector("button");
  } while (!goal && rows[row]?.cells[column]);
  if (!goal) return;
  event.target.tabIndex = -1;
  goal.tabIndex = 0;
  goal.focus();
}

function showMatrix(group, largest, choose) {
  const { trajectories } = group;
  const heads = trajectories.map((one, place) => {
    const button = element("button", { type: "button", tabindex: "-1", on: { click: () => choose(place) } }, `${one.sample} `, verdict(one));
    return element("th", { scope: "col" }, button);
  });
  const longest = Math.max(0, ...trajectories.map((one) => one.turns.length));
  const rows = Array.from({ length: longest }, (_, index) => {
    const cells = trajectories.map(({ sample, turns }, place) => {
      const turn = turns[index];
      const name = `Sample ${sample}, turn ${index + 1}`;
      return element("td", null, turn ? cellOf(turn, name, largest, () => choose(place, index)) : null);
    });
    return element("tr", null, element("th", { scope: "row" }, `Turn ${index + 1}`), cells);
  });
  const caption = element("caption", null, "Advantage of each turn of each sample");
  const head = element("thead", null, element("tr", null, element("th", { scope: "col" }, "Sample"), heads));
  const table = element("table", { class: "matrix", on: { keydown: moveInMatrix } }, caption, head, element("tbody", null, rows));
  byId("matrix").replaceChildren(table);
  byId("scale").replaceChildren(`−${largest.toFixed(2)}`, element("span", { class: "bar", "aria-hidden": "true" }), `+${largest.toFixed(2)}`);
}

function shapingNote(group) {
  if (group.trajectories.some((one) => one.peers.length)) return "";
  const isShaped = group.trajectories.some((one) => one.turns.some((turn) => turn.terms.shaping));
  return isShaped ? "What the shaping compared was not recorded." : "Shaping compared nothing in this group.";
}

function showGroup(groups, problem, run, choose) {
  const group = groups[problem];
  const largest = Math.max(0, ...turnsOf(groups).map((turn) => Math.abs(turn.advantage)));
  const how = { largest, texts: run.tokens, hasTrainer: run.has_trainer, jump: (place) => choose(place, null) };
  showProblem(group, run.tokens);
  showMatrix(group, largest, choose);
  byId("shaping").textContent = shapingNote(group);
  const columns = byId("columns");
  columns.replaceChildren(...group.trajectories.map((one, place) => trajectoryColumn(one, place, group, how)));
}

function markSample(sample) {
  const columns = byId("columns");
  [...columns.children].forEach((column, place) => column.classList.toggle("chosen", place === sample));
  byId("matrix").querySelectorAll("button").forEach((button) => { button.tabIndex = -1; });
  byId("matrix").querySelectorAll("thead button").forEach((button, place) => {
    button.setAttribute("aria-pressed", String(place === sample));
    if (place === sample) button.tabIndex = 0;
  });
  const column = columns.children[sample];
  columns.scrollLeft = column.offsetLeft - (columns.clientWidth - column.clientWidth) / 2;
}
