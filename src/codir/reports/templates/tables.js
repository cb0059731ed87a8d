// A table that is wider than the page is set closer, and where that is not enough as a list of its models: nothing is
// cut off.
(() => {
  "use strict";
  for (const region of document.querySelectorAll(".scroll")) {
    let width = -1;
    const look = () => {
      if (region.clientWidth === width) return;
      width = region.clientWidth;
      region.classList.remove("tight", "stacked");
      for (const closer of ["tight", "stacked"]) {
        if (region.scrollWidth - width > 2) region.classList.add(closer);
      }
    };
    new ResizeObserver(look).observe(region);
    look();
  }
})();
// Tables sort by the column whose heading is pressed: numbers from the largest, names from A; then the other way round.
(() => {
  "use strict";
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    table.tHead.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      const heading = button.closest("th");
      const column = Number(button.dataset.column);
      const first = column === 0 ? "ascending" : "descending";
      const other = column === 0 ? "descending" : "ascending";
      const order = heading.getAttribute("aria-sort") === first ? other : first;
      for (const each of table.tHead.querySelectorAll("th")) each.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const key = (row) => {
        const cell = row.cells[column];
        return column === 0 ? cell.textContent : "key" in cell.dataset ? Number(cell.dataset.key) : null;
      };
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === null || y === null) return (x === null) - (y === null); // unknown values always last
        return sign * (typeof x === "string" ? x.localeCompare(y) : x - y);
      });
      body.replaceChildren(...rows);
    });
  }
})();
