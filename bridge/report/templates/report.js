// The table, and the page of one slide. Whatever comes from a run is set as text, never as HTML.
"use strict";

const run = JSON.parse(document.getElementById("run").textContent);
const list = document.getElementById("list");
const article = document.getElementById("slide");
const table = document.getElementById("table");
const pageTitle = document.title;
const arrived = new Map();
let map = null;
let scrolled = 0;
let opened = "";

// element("p", {className: "small"}, "text", child, ...)
function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

function signed(value) {
  return (value < 0 ? "−" : "+") + Math.abs(value).toFixed(Math.abs(value) < 0.01 ? 4 : 3);
}

function probability(p, sd) {
  return sd === undefined ? p.toFixed(3) : `${p.toFixed(3)} ± ${sd.toFixed(3)}`;
}

async function details(number) {
  if (!run.beside) {
    // They stand at the end of the page, which may still be arriving.
    const next = () => document.getElementById(`detail-${number}`);
    if (!next()?.nextElementSibling && document.readyState === "loading") {
      await new Promise((done) => document.addEventListener("DOMContentLoaded", done, { once: true }));
    }
    if (!next()) throw new Error("nothing more is known of this slide");
    return JSON.parse(next().textContent);
  }
  return new Promise((resolve, reject) => {
    arrived.set(number, resolve);
    const script = element("script", { src: `${run.beside}/${number}.js` });
    script.onload = () => script.remove();
    script.onerror = () => reject(new Error(`the file ${run.beside}/${number}.js does not lie beside this page`));
    document.head.append(script);
  });
}

// Called by the files beside the page.
function heroheSlide(number, detail) {
  arrived.get(number)?.(detail);
  arrived.delete(number);
}

function shownRows() {
  return Array.from(table.tBodies[0].rows).filter((row) => !row.hidden);
}

function neighbours(number) {
  const rows = shownRows().map((row) => row.dataset.number);
  const at = rows.indexOf(number);
  const after = (at >= 0 ? rows[at + 1] : rows[0]) ?? null;
  return { before: at > 0 ? rows[at - 1] : null, after, at, of: rows.length };
}

function facts(pairs) {
  const made = element("dl", { className: "slide-facts" });
  for (const [name, value] of pairs) {
    if (value !== "" && value !== null && value !== undefined) {
      made.append(element("dt", {}, name), element("dd", {}, String(value)));
    }
  }
  return made;
}

function plainTable(caption, heads, rows) {
  const head = element("tr", {}, ...heads.map((text) => element("th", { scope: "col" }, text)));
  const body = rows.map((cells) =>
    element("tr", {}, ...cells.map((cell, i) =>
      i ? element("td", { className: /^[\d±. −+]+$/.test(cell) ? "number" : "text" }, String(cell))
        : element("th", { scope: "row" }, String(cell)))));
  return element("div", { className: "wide" },
    element("table", { className: "plain" },
      element("caption", {}, caption), element("thead", {}, head), element("tbody", {}, ...body)));
}

function dot(shown) {
  if (!map) return;
  map.dots = shown;
  map.draw();
}

function heatMapFigure(slide) {
  const canvas = element("canvas", { tabIndex: 0, role: "img" });
  canvas.setAttribute("aria-label",
    `Heat map of ${slide.name}: sampled patches coloured by their contribution. ` +
    "Arrow keys move it, plus and minus zoom, 0 shows the whole slide.");
  const readout = element("output", { className: "small" });
  const steps = element("select", { id: "map-step" },
    ...slide.steps.map((step, i) => element("option", { value: i, selected: i === slide.step }, step)));
  const regions = element("select", { id: "map-region" },
    ...slide.regions.map((region, i) => element("option", { value: i }, region.label)));
  const against = element("select", {},
    element("option", { value: "share" }, "share of the logit"),
    element("option", { value: "mean" }, "difference from the mean patch"));
  const alpha = element("input", { id: "map-alpha", type: "range", min: 0, max: 100, value: 60 });
  const dots = element("input", { type: "checkbox", id: "map-dots" });
  const button = (label, text, act) => {
    const made = element("button", { type: "button", title: label }, text);
    made.setAttribute("aria-label", label);
    made.addEventListener("click", act);
    return made;
  };
  const low = element("span"), high = element("span"), meaning = element("span", { className: "small" });
  const region = () => slide.regions[regions.value || 0];
  const share = (i) => (region().tiles.contributions[i] ?? [])[steps.value];
  const about = () => {
    const { x, size } = region().tiles;
    return `${x.length} patches, ${size} px each. Move over one to read its share; ` +
      "click into the picture to zoom with the wheel.";
  };
  const inside = (outline) => (outline < 0 ? "" : `, in ${slide.outlines[outline].label}`);
  map = new HeatMap(canvas, slide.bounds, slide.layers, slide.outlines, slide.mpp, (i, outline) => {
    if (i < 0) readout.textContent = outline < 0 ? about() : slide.outlines[outline].label;
    else {
      const tiles = region().tiles;
      const value = share(i);
      readout.textContent = `Patch at x ${tiles.x[i]}, y ${tiles.y[i]}: ` +
        (value === undefined ? "not drawn" : `${signed(value)} to the logit of ${slide.steps[steps.value]}`) +
        (tiles.saturation[i] === null ? "" : `, saturation ${tiles.saturation[i].toFixed(3)}`) + inside(outline);
    }
  });
  const update = () => {
    const tiles = region().tiles;
    const shares = tiles.x.map((_, i) => share(i) ?? null);
    const drawn = shares.filter((value) => value !== null);
    let scale = run.scales[slide.steps[steps.value]] || 1, zero = 0;
    if (against.value === "mean" && drawn.length) {
      zero = drawn.reduce((sum, value) => sum + value, 0) / drawn.length;
      scale = Math.max(run.floor, ...drawn.map((value) => Math.abs(value - zero)));
    }
    map.show({ ...tiles, shares: shares.map((value) => (value === null ? null : (value - zero) / scale)) });
    const either = against.value === "mean" ? "" : " or ";
    low.textContent = signed(zero - scale) + (either && `${either}less`);
    high.textContent = signed(zero + scale) + (either && `${either}more`);
    meaning.textContent = either
      ? "blue speaks against, red for; one scale for the whole run" +
        (scale > run.floor ? "" : ", no finer than what would matter")
      : `blue speaks for it less than this slide's mean patch (${signed(zero)}), red more; a scale of its own`;
    readout.textContent = about();
  };
  steps.addEventListener("change", update);
  regions.addEventListener("change", update);
  against.addEventListener("change", update);
  alpha.addEventListener("input", () => { map.alpha = alpha.value / 100; map.draw(); });
  dots.addEventListener("change", () => dot(dots.checked));
  update();
  const tools = element("div", { className: "tools" },
    element("label", {}, "Contribution to ", steps),
    slide.regions.length > 1 ? element("label", {}, "Patches of ", regions) : null,
    element("label", {}, "Colour by ", against),
    element("label", {}, "Opacity ", alpha),
    element("label", {}, dots, " dots on red"),
    element("span", {},
      button("Zoom in", "+", () => map.zoom(1.4)), " ",
      button("Zoom out", "−", () => map.zoom(1 / 1.4)), " ",
      button("Show the whole slide", "Whole", () => map.whole()), " ",
      slide.layers.length > 1 ? button("Show what was sampled", "Sampled", () => map.fit(slide.layers[1])) : null));
  const ramp = element("span", { className: "ramp", role: "img" });
  ramp.setAttribute("aria-label", "from blue over white to red");
  const legend = element("div", { className: "legend" }, low, ramp, high, meaning,
    element("span", { className: "small print-only" }, "(red patches have a dot)"));
  const frame = element("div", { className: "frame" }, canvas);
  if (slide.outlines.length) frame.append(outlineList(slide));
  // The frame has the shape of the slide, so that the picture fills it; very long ones excepted.
  const ratio = Math.min(Math.max(slide.bounds.width / slide.bounds.height, 0.5), 3);
  canvas.style.aspectRatio = String(ratio);
  canvas.style.width = `min(100%, ${(75 * ratio).toFixed(1)}vh)`;
  return element("figure", { className: "map" }, tools, frame, legend, readout);
}

// Names of annotations; pointing at one shows it on the slide, and clicking goes there.
function outlineList(slide) {
  const items = slide.outlines.map(({ label, region }, i) => {
    const own = region === null ? null : slide.regions[region];
    const button = element("button", { type: "button", title: "Show it on the slide" }, label);
    for (const [kind, shown] of [["mouseenter", i], ["focus", i], ["mouseleave", -1], ["blur", -1]]) {
      button.addEventListener(kind, () => map?.highlight(shown));
    }
    button.addEventListener("click", () => {
      map.fit(map.outlines[i].box);
      map.highlight(i);
    });
    return element("li", {}, button, own && element("span", { className: "small" },
      own.prediction
        ? [own.prediction.grade, `P(positive) ${probability(own.prediction.p_positive)}`].filter(Boolean).join(", ")
        : own.outcome));
  });
  return element("nav", { className: "outlines" }, element("h3", {}, "Annotations"), element("ol", {}, ...items));
}

// Patches of one end of the ranking; what they are called follows from the sign that their shares have.
function tellingPatches(slide, highest, chosen) {
  const tiles = slide.regions[0].tiles;
  const step = slide.steps[slide.step];
  const speaksFor = tiles.contributions[chosen[0][0]][slide.step] > 0;
  const title = highest === speaksFor
    ? `Most telling: the patches that speak most ${speaksFor ? "for" : "against"} ${step}`
    : `No patch speaks ${highest ? "for" : "against"} ${step}: ` +
      `those that speak least ${speaksFor ? "for" : "against"} it`;
  const items = chosen.map(([index, source]) => {
    const text = `${signed(tiles.contributions[index][slide.step])}`;
    const picture = element("img", { src: source, alt: `Patch at x ${tiles.x[index]}, y ${tiles.y[index]}` });
    const show = element("button", { type: "button", title: "Show it on the slide" }, picture);
    show.addEventListener("click", () => {
      // The patches are the union's, which may not be what is shown.
      const regions = document.getElementById("map-region");
      if (regions) {
        regions.value = 0;
        regions.dispatchEvent(new Event("change"));
      }
      map.choose(index);
      map.canvas.scrollIntoView({ block: "nearest" });
      map.canvas.focus({ preventScroll: true });
    });
    return element("li", {}, element("figure", {}, show, element("figcaption", {}, text)));
  });
  return [element("h2", {}, title), element("ul", { className: "pictures" }, ...items)];
}

function composites(slide) {
  const region = slide.regions[0];
  const svg = "http://www.w3.org/2000/svg";
  const scale = run.scales[slide.steps[slide.step]] || 1;
  const tint = element("input", { type: "checkbox" });
  const overlays = [];
  const items = slide.composites.map((source, number) => {
    const { p, grade, cells } = region.composites[number];
    const side = Math.round(Math.sqrt(cells.length));
    const overlay = document.createElementNS(svg, "svg");
    overlay.setAttribute("viewBox", `0 0 ${side} ${side}`);
    overlay.setAttribute("aria-hidden", "true");
    cells.forEach((shares, cell) => {
      const square = document.createElementNS(svg, "rect");
      for (const [key, value] of Object.entries({
        x: cell % side, y: Math.floor(cell / side), width: 1, height: 1,
        fill: colourOf(shares[slide.step] / scale, 0.6),
      })) square.setAttribute(key, value);
      overlay.append(square);
    });
    overlay.style.visibility = "hidden";
    overlays.push(overlay);
    const picture = element("img", { src: source, alt: `Composite ${number + 1}` });
    return element("li", {}, element("figure", {},
      element("span", { className: "composite" }, picture, overlay),
      element("figcaption", {}, `${number + 1}: P(positive) ${probability(p)}${grade && `, grade ${grade}`}`)));
  });
  tint.addEventListener("change", () => {
    for (const overlay of overlays) overlay.style.visibility = tint.checked ? "visible" : "hidden";
  });
  const total = region.composites.length;
  return [
    element("h2", {}, "Composites as the model saw them"),
    element("p", { className: "small" },
      items.length < total ? `The first ${items.length} of ${total}. ` : "",
      "Shown smaller than the model sees them. ",
      element("label", { className: "no-print" }, tint, ` colour by contribution to ${slide.steps[slide.step]}`)),
    element("ul", { className: "pictures" }, ...items),
  ];
}

function render(slide, number) {
  const parts = [];
  const region = slide.regions[0];
  const prediction = region?.prediction;
  parts.push(facts([
    ["Outcome", slide.outcome], ["Call", prediction?.call], ["Grade", prediction?.grade],
    ["Status", prediction?.status],
    ["P(positive)", prediction &&
      `${probability(prediction.p_positive, prediction.p_positive_sd)} (standard deviation over its composites)`],
    ["IHC", slide.ihc], ["Composites", region?.composites.length],
    ["Patches", region && `${region.sampled} sampled of ${region.foreground} foreground`],
    ["Artefacts", region?.artefacts],
  ]));
  if (slide.message) parts.push(element("p", { className: "warning" }, slide.message));
  for (const warning of slide.warnings) parts.push(element("p", { className: "warning" }, warning));
  if (slide.problem) parts.push(element("p", { className: "warning" }, `Pictures are missing: ${slide.problem}`));
  if (region && slide.bounds) parts.push(element("h2", {}, "Where the grade comes from"), heatMapFigure(slide));
  if (slide.speaking_for.length) parts.push(...tellingPatches(slide, true, slide.speaking_for));
  if (slide.speaking_against.length) parts.push(...tellingPatches(slide, false, slide.speaking_against));
  if (slide.composites.length) parts.push(...composites(slide));
  const columns = element("div", { className: "columns" });
  const column = (title, ...content) => columns.append(element("div", {}, element("h2", {}, title), ...content));
  if (prediction) {
    column("Probabilities", plainTable("Of each level, and of at least each grade", ["Level", "Probability"], [
      ...Object.entries(prediction.levels).map(([level, p]) => [level, p.toFixed(3)]),
      ...Object.entries(prediction.at_least).map(([grade, p]) => [`at least ${grade}`, p.toFixed(3)]),
      ...(prediction.p_low === null ? [] : [["HER2-low: at least 1+, and not positive", prediction.p_low.toFixed(3)]]),
      ...(prediction.expected_grade === null ? [] : [["expected grade", prediction.expected_grade.toFixed(3)]]),
    ]));
  }
  if (region?.composites.length) {
    column("Each composite", plainTable("P(positive) and grade of each", ["Composite", "P(positive)", "Grade"],
      region.composites.map((c, i) => [i + 1, c.p.toFixed(3), c.grade])));
  }
  if (slide.regions.length > 1) {
    const heads = ["Annotation", "Outcome", "Grade", "P(positive)", "Patches"];
    column("Annotations", plainTable("Each sampled and scored for itself", heads,
      slide.regions.slice(1).map(({ label, outcome, prediction: own, sampled }) => [
        label, outcome, own?.grade ?? "", own ? probability(own.p_positive, own.p_positive_sd) : "", sampled])));
  }
  if (slide.provenance.length) column("Where this result comes from", facts(slide.provenance));
  parts.push(columns);
  article.append(...parts);
}

async function open(number) {
  map?.close();
  map = null;
  opened = number;
  const row = table.tBodies[0].querySelector(`tr[data-number="${number}"]`);
  if (!list.hidden) scrolled = window.scrollY;
  const name = row.cells[1].querySelector("a").textContent;
  const { before, after, at, of } = neighbours(number);
  const link = (text, to) => (to === null
    ? element("span", { className: "small" }, text)
    : element("a", { href: to ? `#slide-${to}` : "#" }, text));
  const nav = element("nav", {}, link("All slides", ""), link("← Before", before), link("After →", after),
    element("span", { className: "small" }, at >= 0 ? `${at + 1} of ${of}` : ""));
  nav.setAttribute("aria-label", "Slides");
  article.replaceChildren(nav, element("h1", {}, name));
  list.hidden = true;
  article.hidden = false;
  document.title = `${name} · ${pageTitle}`;
  window.scrollTo(0, 0);
  article.focus({ preventScroll: true });
  try {
    const slide = await details(number);
    if (opened === number) render(slide, number);
  } catch (error) {
    const said = `This slide cannot be shown: ${error.message}.`;
    if (opened === number) article.append(element("p", { className: "warning" }, said));
  }
}

function close() {
  map?.close();
  map = null;
  const last = opened;
  opened = "";
  article.hidden = true;
  article.replaceChildren();
  list.hidden = false;
  document.title = pageTitle;
  window.scrollTo(0, scrolled);
  table.tBodies[0].querySelector(`tr[data-number="${last}"] th a`)?.focus({ preventScroll: true });
}

function follow() {
  const found = /^#slide-(\d+)$/.exec(location.hash);
  if (found && table.tBodies[0].querySelector(`tr[data-number="${found[1]}"]`)) open(found[1]);
  else if (opened) close();
}

document.addEventListener("keydown", (event) => {
  if (!opened || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select")) return;
  const { before, after } = neighbours(opened);
  if (event.key === "Escape") location.hash = "";
  else if (event.key === "ArrowLeft" && before !== null) location.hash = `slide-${before}`;
  else if (event.key === "ArrowRight" && after !== null) location.hash = `slide-${after}`;
});
window.addEventListener("hashchange", follow);
window.addEventListener("beforeprint", () => dot(true));
window.addEventListener("afterprint", () => dot(document.getElementById("map-dots")?.checked));
const changed = makeSteps(table, document.getElementById("more"));
makeSortable(table, changed);
makeFilterable(table, document.getElementById("filters"), document.getElementById("shown"), changed);
// Of a single slide there is little to see in a table.
if (table.tBodies[0].rows.length === 1 && !location.hash) history.replaceState(null, "", "#slide-1");
follow();
