// Filters and search over all trajectories of the chosen run, and the list of what they find.

const FACETS = { outcome: "Outcome", credit: "Credit", format: "Format", tool: "Tool status", stop: "Stop reason" };
const KINDS = {
  against_outcome: "against the outcome", with_outcome: "with the outcome", equal_outcomes: "credit although all agree",
  error: "format error", sound: "no format error", none: "no tool result",
};
const PAGE = 100; // results that are listed at a time

let found = null; // places in order; null when nothing is asked
let asked = 0;

// The fields of the search and of the filters, each with its name in a link.
const asking = () => [["search", byId("search")], ...Object.keys(FACETS).map((facet) => [facet, byId(`filter-${facet}`)])];
const filterValues = () => Object.keys(FACETS).map((facet) => [facet, byId(`filter-${facet}`).value]).filter(([, kind]) => kind);
const searched = () => byId("search").value.trim().toLowerCase();

function showFilters(run) {
  for (const [facet, label] of Object.entries(FACETS)) {
    const select = byId(`filter-${facet}`);
    const kept = select.value;
    const options = run.facets.filter(([name]) => name === facet).map(([, kind, number]) =>
      element("option", { value: kind, selected: kind === kept }, `${KINDS[kind] ?? words(kind)} (${number.toLocaleString("en")})`),
    );
    select.replaceChildren(element("option", { value: "" }, "any"), ...options);
    select.setAttribute("aria-label", label);
  }
}

function haystack(one, group) {
  const texts = one.turns.flatMap((turn) => [turn.text, turn.result?.[1] ?? "", ...turn.errors]);
  return (one.haystack ??= [question(group), group.gold, one.answer ?? "", ...texts].join("\n"));
}

// Where the text was found, with some words around it; without a search the beginning of the question.
function excerpt(place, text) {
  const all = text ? haystack(place.one, place.group) : question(place.group);
  const start = text ? all.toLowerCase().indexOf(text) : 0;
  const before = all.slice(Math.max(0, start - 30), start);
  const after = all.slice(start + text.length, start + text.length + 60);
  return element("bdi", { class: "excerpt" }, before, text ? element("mark", null, all.slice(start, start + text.length)) : null, after);
}

function resultItem(place, text) {
  const { one, group } = place;
  const link = element("a", { href: hashOf(place) }, `Step ${runs[chosen.run].steps[place.step].step}, sample ${one.sample}`);
  return element("li", null, link, " ", verdict(one), " ", element("span", { class: "quiet" }, isolated(group.source)), " ", excerpt(place, text));
}

function listMore(list, text) {
  const start = list.children.length;
  list.append(...found.slice(start, start + PAGE).map((place) => resultItem(place, text)));
  const left = found.length - list.children.length;
  byId("more").hidden = left === 0;
  byId("more").textContent = `Show ${Math.min(PAGE, left)} more`;
}

async function find() {
  const mine = ++asked;
  const text = searched();
  const wanted = filterValues();
  const run = runs[chosen.run];
  let places = null;
  if (text || wanted.length) {
    places = await placesOf(run, (one, group) =>
      wanted.every(([facet, kind]) => isOf(one, facet, kind)) && (!text || haystack(one, group).toLowerCase().includes(text)),
    );
  }
  if (mine !== asked) return; // somebody asked something else while the steps were unpacked
  found = places;
  byId("results").hidden = found === null;
  byId("list").replaceChildren();
  if (found === null) {
    byId("found").textContent = "";
    return;
  }
  const total = run.steps.reduce((sum, step) => sum + step.size, 0);
  const steps = new Set(found.map((place) => place.step)).size;
  byId("found").textContent = `${found.length.toLocaleString("en")} of ${counted(total, "trajectory", "trajectories")}, in ${counted(steps, "step")}`;
  listMore(byId("list"), text);
}

// Searches and filters as a link says; returns the names of filters for what no trajectory of the run is.
async function askAs(link) {
  const values = () => asking().map(([, field]) => field.value).join("\n");
  const before = values();
  const unknown = asking().filter(([name, field]) => {
    field.value = link.get(name) ?? "";
    if (field.selectedIndex !== -1) return false; // the search takes anything; a list that lacks it chooses nothing
    field.value = "";
    return true;
  });
  if (values() !== before) await find();
  return unknown.map(([name]) => name);
}
