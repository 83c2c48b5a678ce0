// The runs of the page. The groups of a step stay packed until somebody looks at them or searches in them.

const runs = JSON.parse(byId("data").textContent);

async function unpacked(gzip) {
  const bytes = Uint8Array.from(atob(gzip), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const lines = (await new Response(stream).text()).split("\n");
  return lines.filter(Boolean).map((line) => JSON.parse(line));
}

// A promise of the groups of a step, one for all who ask.
const groupsOf = (step) => (step.groups ??= unpacked(step.gzip));

const question = (group) => group.prompt[group.prompt.length - 1][1];
const isOf = (one, facet, kind) => one.kinds[facet].includes(kind);
const turnsOf = (groups) => groups.flatMap((group) => group.trajectories.flatMap((one) => one.turns));

// Where a trajectory lies in its run: places of step, problem and sample, and how places follow one another.
const rank = ({ step, problem, sample }) => (step * 1e5 + problem) * 1e5 + sample;

async function placesOf(run, isWanted = () => true) {
  const steps = await Promise.all(run.steps.map(groupsOf));
  return steps.flatMap((groups, step) =>
    groups.flatMap((group, problem) =>
      group.trajectories.flatMap((one, sample) =>
        isWanted(one, group) ? [{ step, problem, sample, one, group }] : [],
      ),
    ),
  );
}
