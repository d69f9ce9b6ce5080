"use strict";

// A header's button sorts its table: numbers largest first, words from A; again turns it around.
// Rows without a value (too few, not estimable) stay last either way.
function keyOf(row, column) {
  const text = row.cells[column].dataset.value;
  if (text === undefined || text === "") return null;
  return Number.isNaN(Number(text)) ? text : Number(text);
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), undefined, { numeric: true });
}

function sort(table, head) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const keys = new Map(rows.map((row) => [row, keyOf(row, head.cellIndex)]));
  const isText = [...keys.values()].some((key) => typeof key === "string");
  const before = head.getAttribute("aria-sort");
  const first = isText ? "ascending" : "descending";
  const second = isText ? "descending" : "ascending";
  const order = before === first ? second : first;
  const sign = order === "ascending" ? 1 : -1;
  rows.sort((a, b) => {
    const [x, y] = [keys.get(a), keys.get(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * compare(x, y);
  });
  body.append(...rows);
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
}

for (const button of document.querySelectorAll("table.sortable thead button")) {
  const head = button.closest("th");
  button.addEventListener("click", () => sort(head.closest("table"), head));
}

// All details of a section at once.
for (const button of document.querySelectorAll("button.all")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    const all = [...button.closest("section").querySelectorAll("details")];
    const open = all.some((one) => !one.open);
    for (const one of all) one.open = open;
    button.textContent = open ? "Close all" : "Open all";
  });
}

// A link to what is inside closed details opens them.
function reveal() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  for (let one = target.closest("details"); one; one = one.parentElement.closest("details")) {
    one.open = true;
  }
  target.scrollIntoView();
}
addEventListener("hashchange", reveal);
reveal();
