// Sorting and filtering of a table of slides, and showing a long one in steps.
"use strict";

const STEP = 500;

// Returns what is to be called when the order of the rows, or which of them fit, has changed.
function makeSteps(table, button) {
  let shown = STEP;

  function apply() {
    let count = 0;
    for (const row of table.tBodies[0].rows) {
      count += !row.hidden;
      row.classList.toggle("beyond", !row.hidden && count > shown);
    }
    button.hidden = count <= shown;
    button.textContent = `Show ${Math.min(STEP, count - shown)} more of ${count}`;
  }

  button.addEventListener("click", () => {
    shown += STEP;
    apply();
  });
  return apply;
}

function makeSortable(table, changed) {
  const body = table.tBodies[0];
  const heads = Array.from(table.tHead.rows[0].cells);
  const compareText = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" }).compare;

  heads.forEach((head, column) => {
    if (!head.dataset.sort) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const keyed = Array.from(body.rows, (row) => [row.cells[column].dataset.value || "", row]);
      keyed.sort(([a], [b]) => {
        // What has no value stands last, either way.
        if (!a || !b) return (a ? 0 : 1) - (b ? 0 : 1);
        const order = head.dataset.sort === "number" ? a - b : compareText(a, b);
        return descending ? -order : order;
      });
      body.append(...keyed.map(([, row]) => row));
      changed();
    });
  });
}

function makeFilterable(table, form, shown, changed) {
  const text = form.querySelector("input[type=search]");
  const selects = Array.from(form.querySelectorAll("select"));
  const rows = Array.from(table.tBodies[0].rows, (row) => [row, row.textContent.toLowerCase()]);

  function apply() {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const [row, content] of rows) {
      const fits =
        words.every((word) => content.includes(word)) &&
        selects.every((s) => !s.value || row.dataset[s.id.replace("filter-", "")] === s.value);
      row.hidden = !fits;
      count += fits;
    }
    shown.textContent = count === rows.length ? `${count} slides` : `${count} of ${rows.length} slides`;
    changed();
  }

  form.addEventListener("input", apply);
  form.addEventListener("reset", () => setTimeout(apply));
  form.addEventListener("submit", (event) => event.preventDefault());
  apply();
}
