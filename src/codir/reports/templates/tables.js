// A table that is wider than the screen has a shadow at the side where more of it is.
(() => {
  "use strict";
  for (const region of document.querySelectorAll(".scroll")) {
    const look = () => {
      const hidden = region.scrollWidth - region.clientWidth;
      region.parentElement.classList.toggle("more-right", hidden > 2 && region.scrollLeft < hidden - 2);
      region.parentElement.classList.toggle("more-left", hidden > 2 && region.scrollLeft > 2);
    };
    region.addEventListener("scroll", look, { passive: true });
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
