// The figures of a study: what a pointer or the arrow keys stand on is said in words, and arms are shown or hidden.
{
  const boxes = [...document.querySelectorAll("#arms input")];
  const drawn = JSON.parse(byId("marks").textContent);
  const isShown = ([arm]) => boxes[arm].checked;

  // How far the marks of one column lie apart: of arms at one step, that is up and down; of parts of a bar, across.
  const extent = (columns, place) =>
    [...columns.values()].reduce((sum, marks) => {
      const values = marks.map((mark) => mark[place]);
      return sum + Math.max(...values) - Math.min(...values);
    }, 0);

  function columnsOf(marks) {
    const columns = Map.groupBy ? Map.groupBy(marks, (mark) => mark[1]) : grouped(marks);
    const [across, down] = [extent(columns, 2), extent(columns, 3)];
    const place = across > down ? 3 : 2;
    const sorted = [...columns].sort(([, a], [, b]) => a[0][place] - b[0][place] || a[0][5 - place] - b[0][5 - place]);
    return { columns: new Map(sorted), weights: across === down ? [1, 1] : across > down ? [0, 1] : [1, 0] };
  }

  function grouped(marks) {
    const columns = new Map();
    for (const mark of marks) columns.set(mark[1], [...(columns.get(mark[1]) ?? []), mark]);
    return columns;
  }

  function watch(plot) {
    const own = drawn[plot.dataset.plot];
    const svg = plot.querySelector("svg");
    const words = plot.querySelector(".readout");
    const rings = document.createElementNS(svg.namespaceURI, "g");
    svg.append(rings);
    let current = null;

    function show(name, marks) {
      current = name;
      words.classList.toggle("left", marks[0][2] > svg.viewBox.baseVal.width / 2);
      words.replaceChildren(
        element("strong", null, plot.dataset.axis ? `${plot.dataset.axis} ${name}` : name),
        ...marks.map(([arm, , , , text]) => {
          const label = boxes[arm].dataset.arm;
          return element("span", { style: `--arm: var(--arm-${boxes[arm].dataset.hue})` }, name === label ? text : `${label} ${text}`);
        }),
      );
      rings.replaceChildren(
        ...marks.map(([, , x, y]) => {
          const ring = document.createElementNS(svg.namespaceURI, "circle");
          for (const [key, value] of Object.entries({ cx: x, cy: y, r: 3.6, class: "ring" })) ring.setAttribute(key, value);
          return ring;
        }),
      );
    }

    function clear() {
      current = null;
      words.replaceChildren();
      rings.replaceChildren();
    }

    function onPointer(event) {
      const shown = own.filter(isShown);
      if (!shown.length) return clear();
      const box = svg.getBoundingClientRect();
      const scale = svg.viewBox.baseVal.width / box.width;
      const [x, y] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
      const { columns, weights } = columnsOf(shown);
      const distance = (mark) => Math.hypot(weights[0] * (mark[2] - x), weights[1] * (mark[3] - y));
      const nearest = shown.reduce((best, mark) => (distance(mark) < distance(best) ? mark : best));
      if (nearest[1] !== current) show(nearest[1], columns.get(nearest[1]));
      return null;
    }

    function onKey(event) {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") clear();
      if (!step) return;
      event.preventDefault();
      const { columns } = columnsOf(own.filter(isShown));
      const names = [...columns.keys()];
      if (!names.length) return;
      const place = current === null ? (step > 0 ? 0 : names.length - 1) : names.indexOf(current) + step;
      const name = names[Math.min(Math.max(place, 0), names.length - 1)];
      show(name, columns.get(name));
    }

    plot.addEventListener("pointermove", onPointer);
    plot.addEventListener("pointerdown", onPointer);
    plot.addEventListener("pointerleave", clear);
    plot.addEventListener("keydown", onKey);
    plot.addEventListener("blur", clear);
  }

  function choose(isWanted) {
    for (const box of boxes) box.checked = isWanted(box);
  }

  document.querySelectorAll(".plot").forEach(watch);
  byId("all-arms").addEventListener("click", () => choose(() => true));
  byId("no-arms").addEventListener("click", () => choose((box) => box.dataset.baseline !== undefined));
}
