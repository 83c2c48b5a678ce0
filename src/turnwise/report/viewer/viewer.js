// What is chosen, by whom ever: the lists, the matrix, a result, a link, a key.

const chosen = { run: 0, step: Math.max(0, (runs[0]?.steps.length ?? 0) - 1), problem: 0, sample: 0 };
let request = 0;

function hashOf(place) {
  const { step, problem, sample } = place;
  const run = runs[place.run ?? chosen.run];
  const link = new URLSearchParams(runs.length > 1 ? { run: run.label } : {});
  link.set("step", run.steps[step].step);
  link.set("problem", problem);
  link.set("sample", sample);
  for (const [name, field] of asking()) if (field.value.trim()) link.set(name, field.value.trim());
  return `#${link}`;
}

// Where a link leads, or the name of what it asks for that is not in this page.
function placeOf(link) {
  const run = link.has("run") ? runs.findIndex((one) => one.label === link.get("run")) : 0;
  if (run < 0) return "run";
  const step = runs[run].steps.findIndex((one) => String(one.step) === link.get("step"));
  if (step < 0) return "step";
  const [problem, sample] = ["problem", "sample"].map((name) => Number(link.get(name) ?? 0));
  return { run, step, problem, sample };
}

function fill(id, texts, value) {
  byId(id).replaceChildren(...texts.map((text, place) => element("option", { value: place, selected: place === value }, text)));
}

const problemText = (group) => {
  const solved = group.trajectories.filter((one) => isOf(one, "outcome", "correct")).length;
  return `${solved}/${group.trajectories.length} correct · ${isolated(group.source)} · ${isolated(question(group).replace(/\s+/g, " ").slice(0, 80))}`;
};

// Shows what was chosen; returns the name of what is not in this page, and then shows what it showed.
async function choose(change, isLinked = true) {
  const wanted = { ...chosen, ...change };
  const mine = ++request;
  const run = runs[wanted.run];
  const groups = await groupsOf(run.steps[wanted.step]);
  if (mine !== request) return null; // somebody chose again while this step was unpacked
  const group = groups[wanted.problem];
  if (!group?.trajectories[wanted.sample]) return group ? "sample" : "problem";
  const isOther = ["run", "step", "problem"].some((name) => wanted[name] !== chosen[name]) || !byId("columns").children.length;
  const isOtherRun = wanted.run !== chosen.run;
  Object.assign(chosen, wanted);
  if (isOther) {
    fill("run", runs.map((one) => one.label), chosen.run);
    fill("step", run.steps.map((one) => String(one.step)), chosen.step);
    fill("problem", groups.map(problemText), chosen.problem);
    showGroup(groups, chosen.problem, run, (sample, turn) => choose({ sample }).then(() => goTo(sample, turn)));
  }
  markSample(chosen.sample);
  say(`Step ${run.steps[chosen.step].step}, problem ${chosen.problem + 1} of ${groups.length}, sample ${group.trajectories[chosen.sample].sample}`);
  byId("missing").textContent = "";
  if (isOtherRun) showFilters(run);
  if (isLinked) history.replaceState(null, "", hashOf(chosen));
  if (isOtherRun) await find();
  return null;
}

// The same problem of another run, where it has it: runs of one seed meet the same problems in the same order.
async function chooseRun(run) {
  const { steps } = runs[run];
  const same = steps.findIndex((one) => one.step === runs[chosen.run].steps[chosen.step].step);
  const step = same < 0 ? steps.length - 1 : same;
  const problem = Math.min(same < 0 ? 0 : chosen.problem, (await groupsOf(steps[step])).length - 1);
  await choose({ run, step, problem, sample: 0 });
}

// Shows and focuses a turn, or the head of the column where `turn` is null; without `turn` nothing moves.
function goTo(sample, turn) {
  if (turn === undefined) return;
  const column = byId(`sample-${sample}`);
  const goal = turn === null ? column.querySelector("h3") : column.querySelectorAll(".turn")[turn];
  goal.focus({ preventScroll: true });
  goal.scrollIntoView({ block: "nearest", inline: "nearest" });
}

// The next or the one before, of the results where there are any; by problem, the first of another problem.
async function move(by, isByProblem = false) {
  const places = found ?? (await placesOf(runs[chosen.run]));
  const order = (place) => rank(isByProblem ? { ...place, sample: 0 } : place);
  const here = order(chosen);
  const near = by > 0 ? places.find((place) => order(place) > here) : places.findLast((place) => order(place) < here);
  if (near === undefined) return say(by > 0 ? "That was the last one." : "That was the first one.");
  const { step, problem, sample } = places.find((place) => order(place) === order(near));
  await choose({ step, problem, sample });
}

async function copyLink() {
  history.replaceState(null, "", hashOf(chosen));
  try {
    await navigator.clipboard.writeText(location.href);
    say("Link copied.");
  } catch {
    say(`The browser does not let the page copy; the link is ${location.href}`);
  }
}

// Asks and shows what the address says, and names what of it is not in this page.
async function restore() {
  const link = new URLSearchParams(location.hash.slice(1));
  if (!link.has("step")) return; // it leads to something else
  const place = placeOf(link);
  const lacking = typeof place === "string" ? place : await choose(place, false);
  const names = [lacking, ...(await askAs(link))].filter(Boolean);
  const parts = names.map((name) => isolated(`${name}=${link.get(name)}`));
  byId("missing").textContent = parts.length ? `The link asks for ${parts.join(" and ")}, which is not in this page.` : "";
  byId("shown").scrollIntoView({ block: "start" });
}

function askAnew() {
  history.replaceState(null, "", hashOf(chosen));
  return find();
}

const KEYS = { j: () => move(1), k: () => move(-1), "]": () => move(1, true), "[": () => move(-1, true), "/": () => byId("search").focus() };

function onKey(event) {
  const isTyping = event.target.matches("input[type=search], select");
  if (isTyping || event.ctrlKey || event.altKey || event.metaKey || !KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key]();
}

function onLayout() {
  byId("columns").classList.toggle("single", byId("single").checked);
  markSample(chosen.sample);
}

async function start() {
  byId("run-choice").hidden = runs.length < 2;
  byId("run").addEventListener("change", (event) => chooseRun(Number(event.target.value)));
  byId("step").addEventListener("change", (event) => choose({ step: Number(event.target.value), problem: 0, sample: 0 }));
  byId("problem").addEventListener("change", (event) => choose({ problem: Number(event.target.value), sample: 0 }));
  byId("previous").addEventListener("click", () => move(-1));
  byId("next").addEventListener("click", () => move(1));
  byId("copy").addEventListener("click", copyLink);
  byId("single").checked = matchMedia("(max-width: 40rem)").matches;
  byId("layout").addEventListener("change", onLayout);
  byId("viewer").addEventListener("keydown", onKey);
  let typing;
  byId("search").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(askAnew, 150); });
  // Not for the search, which changes when it loses the focus: a result that is being clicked would be made anew.
  byId("filters").addEventListener("change", (event) => { if (event.target.matches("select")) askAnew(); });
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("reset", () => setTimeout(askAnew)); // the fields are empty after this event
  byId("more").addEventListener("click", () => listMore(byId("list"), searched()));
  addEventListener("hashchange", restore);
  showFilters(runs[0]);
  const isMixed = (group) => ["correct", "wrong"].every((kind) => group.trajectories.some((one) => isOf(one, "outcome", kind)));
  const mixed = (await groupsOf(runs[0].steps[chosen.step])).findIndex(isMixed); // there is more to see than where all agree
  await choose({ problem: Math.max(mixed, 0) }, false);
  onLayout();
  await restore();
  byId("viewer").dataset.ready = "";
}

if (runs.length && "DecompressionStream" in window) start();
else if (runs.length) byId("status").textContent = "This browser cannot unpack the trajectories; they lie in groups/ as well.";
