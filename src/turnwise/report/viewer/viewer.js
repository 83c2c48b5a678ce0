// Every text from a model reaches the page through textContent; nothing here builds markup from text.
const data = JSON.parse(document.getElementById("data").textContent);
const steps = data.length ? data[0].steps : [];
const texts = data.length ? data[0].tokens : {};
const byId = (id) => document.getElementById(id);
const chosen = { step: Math.max(steps.length - 1, 0), problem: 0, sample: 0 };

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key === "on") made.addEventListener(...value);
    else if (value !== null && value !== false) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

const signed = (value) => (value < 0 ? "−" : value > 0 ? "+" : "") + Math.abs(value).toFixed(2);
const words = (name) => name.replaceAll("_", " ");

function tint(value, largest) {
  if (!value || !largest) return "";
  const strength = (0.12 + 0.45 * Math.min(Math.abs(value) / largest, 1)).toFixed(2);
  return `rgba(var(${value > 0 ? "--plus" : "--minus"}), ${strength})`;
}

function largestAdvantage(group) {
  return Math.max(0, ...group.trajectories.flatMap((one) => one.turns.map((turn) => Math.abs(turn.advantage))));
}

const PYTHON = new RegExp(
  [
    "(?<c>#[^\\n]*)",
    "(?<s>(?:\\b[rbfu]{1,2})?(?:\"\"\"[\\s\\S]*?(?:\"\"\"|$)|'''[\\s\\S]*?(?:'''|$)|\"(?:\\\\.|[^\"\\\\\\n])*\"?|'(?:\\\\.|[^'\\\\\\n])*'?))",
    "\\b(?<k>and|as|assert|break|class|continue|def|del|elif|else|except|False|finally|for|from|if|import|in|is|lambda|None|not|or|pass|raise|return|True|try|while|with|yield)\\b",
    "\\b(?<d>\\d[\\w.]*)",
  ].join("|"),
  "gi",
);

function highlighted(code) {
  const made = element("code");
  let end = 0;
  for (const match of code.matchAll(PYTHON)) {
    const kind = Object.keys(match.groups).find((key) => match.groups[key] !== undefined);
    made.append(code.slice(end, match.index), element("span", { class: kind }, match[0]));
    end = match.index + match[0].length;
  }
  made.append(code.slice(end));
  return element("pre", null, made);
}

function turnText(text) {
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(/```[^\n`]*\n([\s\S]*?)(?:```|$)/g)) {
    parts.push([text.slice(end, match.index), false], [match[1].replace(/\n$/, ""), true]);
    end = match.index + match[0].length;
  }
  parts.push([text.slice(end), false]);
  const shown = parts.filter(([part]) => part.trim());
  if (!shown.length) return [element("p", { class: "quiet" }, "(empty turn)")];
  return shown.map(([part, isCode]) => (isCode ? highlighted(part) : element("p", { class: "message" }, part.trim())));
}

function tokenRow(turn) {
  const row = element("div", { class: "tokens" });
  turn.ids.forEach((id, place) => {
    const logprob = turn.logprobs[place];
    const surprise = Math.min(-logprob / 4, 1);
    const title = `id ${id}, log-prob ${logprob.toFixed(3)}, ${(100 * Math.exp(logprob)).toFixed(1)}%`;
    const style = `background:rgba(var(--minus), ${(0.6 * surprise).toFixed(2)})`;
    row.append(element("span", { title, style }, texts[id] || `${id} `));
  });
  return row;
}

function tokenDetails(turn) {
  const [start, end] = turn.span;
  const more = turn.ids.length < end - start ? `, the first ${turn.ids.length} shown` : "";
  const details = element("details", null, element("summary", null, `${end - start} tokens, ${start} to ${end - 1}${more}`));
  details.addEventListener("toggle", () => {
    if (details.children.length > 1) return;
    details.append(element("p", { class: "quiet" }, "The stronger the colour, the less likely the token was when sampled. Point at one for its figures."), tokenRow(turn));
  });
  return details;
}

function toolResult(turn) {
  if (turn.result === null) return null;
  const [status, output, seconds] = turn.result;
  return element(
    "div", { class: status === "ok" ? "tool" : "tool bad" },
    element("span", { class: "meta" }, `tool: ${words(status)}, ${seconds.toFixed(2)} s`),
    element("pre", null, output || "(no output)"),
  );
}

function turnCard(turn, number, largest) {
  const color = tint(turn.advantage, largest);
  const terms = Object.entries(turn.terms).map(([name, value]) => `${words(name)} ${signed(value)}`).join(", ");
  const header = element(
    "header", null,
    element("h3", null, `Turn ${number}`),
    element("span", { class: "chip", style: color && `background:${color}` }, `advantage ${signed(turn.advantage)}`),
    element("span", { class: "chip" }, `reward ${signed(turn.reward)}${terms ? ` (${terms})` : ""}`),
    turn.finish === "stop" ? null : element("span", { class: "chip" }, `cut: ${words(turn.finish)}`),
  );
  const errors = turn.calls.map(([, error]) => error).filter(Boolean).map((error) => element("p", { class: "tool bad" }, `malformed tool call: ${error}`));
  const card = element("article", { class: "turn" }, header, ...turnText(turn.text), ...errors, toolResult(turn), tokenDetails(turn));
  if (color) card.style.setProperty("--edge", color);
  return card;
}

function verdict(one) {
  if (one.kinds.outcome[0] === "excluded") return element("span", { class: "meta" }, "excluded");
  return element("span", { class: (one.kinds.outcome[0] === "correct") ? "yes" : "no" }, (one.kinds.outcome[0] === "correct") ? "✓ correct" : "✗ wrong");
}

function showTranscript() {
  const group = steps[chosen.step].groups[chosen.problem];
  const one = group.trajectories[chosen.sample];
  const answer = one.answer === null ? "no answer" : `answered ${one.answer}`;
  const facts = `${answer}, expected ${group.gold}; stopped: ${words(one.kinds.stop[0])}; ${one.num_tokens} tokens`;
  const title = element("p", null, element("strong", null, `Sample ${one.sample} `), verdict(one), ` ${facts}`);
  const largest = largestAdvantage(group);
  byId("transcript").replaceChildren(title, ...one.turns.map((turn, place) => turnCard(turn, place + 1, largest)));
}

function showMatrix() {
  const group = steps[chosen.step].groups[chosen.problem];
  const largest = largestAdvantage(group);
  const longest = Math.max(...group.trajectories.map((one) => one.turns.length));
  const heading = element("tr", null, element("th", { scope: "col" }, "Sample"));
  for (let turn = 1; turn <= longest; turn++) heading.append(element("th", { scope: "col" }, `Turn ${turn}`));
  const rows = group.trajectories.map((one, place) => {
    const choose = () => { chosen.sample = place; showMatrix(); showTranscript(); byId(`sample-${place}`).focus(); };
    const button = element("button", { id: `sample-${place}`, type: "button", "aria-pressed": String(place === chosen.sample), on: ["click", choose] }, `${one.sample} `, verdict(one));
    const cells = one.turns.map((turn) => {
      const color = tint(turn.advantage, largest);
      return element("td", { style: color && `background:${color}` }, signed(turn.advantage), element("small", null, `reward ${signed(turn.reward)}`));
    });
    return element("tr", null, element("th", { scope: "row" }, button), ...cells);
  });
  const caption = `Advantage of each turn${group.trajectories.length > rows.length ? `; ${rows.length} of ${group.trajectories.length} samples are in this page` : ""}`;
  byId("matrix").replaceChildren(element("table", { class: "matrix" }, element("caption", { class: "quiet" }, caption), element("thead", null, heading), element("tbody", null, ...rows)));
}

function showProblem() {
  chosen.sample = 0;
  const group = steps[chosen.step].groups[chosen.problem];
  const messages = group.prompt.map(([role, content], place) => {
    const text = element("div", { class: "message" }, content);
    const isQuestion = place === group.prompt.length - 1;
    return isQuestion ? text : element("details", null, element("summary", null, role), text);
  });
  byId("prompt").replaceChildren(...messages, element("p", { class: "meta" }, `expected ${group.gold}; ${group.source}, ${group.id}`));
  showMatrix();
  showTranscript();
}

async function unpacked(gzip) {
  const bytes = Uint8Array.from(atob(gzip), (character) => character.charCodeAt(0));
  const text = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  return text.trim().split("\n").map((line) => JSON.parse(line));
}

async function showStep() {
  chosen.problem = 0;
  steps[chosen.step].groups ??= await unpacked(steps[chosen.step].gzip);
  const options = steps[chosen.step].groups.map((group, place) => {
    const solved = group.trajectories.filter((one) => (one.kinds.outcome[0] === "correct")).length;
    const question = group.prompt[group.prompt.length - 1][1].replace(/\s+/g, " ").slice(0, 80);
    return element("option", { value: place }, `${solved}/${group.trajectories.length} correct · ${group.source} · ${question}`);
  });
  byId("problem").replaceChildren(...options);
  showProblem();
}

if (steps.length) {
  byId("step").append(...steps.map(({ step }, place) => element("option", { value: place, selected: place === chosen.step ? "" : null }, step)));
  byId("step").addEventListener("change", (event) => { chosen.step = Number(event.target.value); showStep(); });
  byId("problem").addEventListener("change", (event) => { chosen.problem = Number(event.target.value); showProblem(); });
  showStep();
}
