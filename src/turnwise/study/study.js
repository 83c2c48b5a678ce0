// The figures of a study: what a pointer or the arrow keys stand on is said in words, and arms are shown or hidden,
// so that no row and no plot stays empty.
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

  // Where `gone` of `height` below `top` has closed up, what lay from there to the bottom is shorter.
  const squeezed = (top, height, gone) => `translate(0 ${(top * gone) / height}) scale(1 ${1 - gone / height})`;
  const lifted = (by) => `translate(0 ${-by})`;

  function watch(plot) {
    const own = drawn[plot.dataset.plot];
    const rows = JSON.parse(plot.dataset.rows);
    const about = plot.parentElement.dataset.arm;
    const svg = plot.querySelector("svg");
    const whole = svg.viewBox.baseVal.height;
    const lifts = new Map(); // how far the row of each arm has moved up
    const words = plot.querySelector(".readout");
    const rings = document.createElementNS(svg.namespaceURI, "g");
    svg.append(rings);
    let current = null;

    // The marks that are shown, where they are shown.
    const present = () => own.filter(isShown).map(([arm, column, x, y, text]) => [arm, column, x, y - (lifts.get(arm) ?? 0), text]);

    function closeUp() {
      clear();
      const isEmpty = !own.some(isShown) || (about !== undefined && !boxes[about].checked);
      plot.parentElement.hidden = isEmpty;
      if (isEmpty || rows === null) return;
      const [arms, top, pitch] = rows;
      let gone = 0;
      for (const arm of arms) {
        lifts.set(arm, gone);
        if (!boxes[arm].checked) gone += pitch;
      }
      const squeeze = squeezed(top, pitch * arms.length, gone);
      const move = (names, transform) => svg.querySelectorAll(names).forEach((one) => one.setAttribute("transform", transform(one)));
      move("[data-arm]", (one) => lifted(lifts.get(Number(one.dataset.arm))));
      move("[data-part=axis] g:has(> text), [data-part=foot]", () => lifted(gone));
      move("[data-part=axis] g:has(> path), [data-part=span]", () => squeeze);
      svg.setAttribute("viewBox", `0 0 ${svg.viewBox.baseVal.width} ${whole - gone}`);
    }

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
      const shown = present();
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
      const { columns } = columnsOf(present());
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
    return closeUp;
  }

  const plots = [...document.querySelectorAll(".plot")].map(watch);

  function update() {
    plots.forEach((closeUp) => closeUp());
    const ticked = boxes.filter((box) => box.checked).length;
    byId("num-arms").textContent = ticked ? `${ticked} of ${boxes.length} shown` : "No arm is ticked, so nothing is drawn";
    for (const words of document.querySelectorAll("#figures .none")) {
      words.hidden = [...words.nextElementSibling.children].some((one) => !one.hidden);
      words.textContent = ticked ? "No arm that is ticked is in this figure." : "No arm is ticked.";
    }
  }

  function choose(isWanted) {
    for (const box of boxes) box.checked = isWanted(box);
    update();
  }

  byId("arms").addEventListener("change", update);
  update(); // a browser may have kept boxes as they were left
  byId("all-arms").addEventListener("click", () => choose(() => true));
  byId("no-arms").addEventListener("click", () => choose((box) => box.dataset.baseline !== undefined));
}
