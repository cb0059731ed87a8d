// What the page does when it is read; texts are set as text, never as HTML.
"use strict";

const all = (selector, within = document) => [...within.querySelectorAll(selector)];

function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children); // strings become text nodes
  return made;
}

// Light and dark: as the system says, until the button is pressed; nothing is stored. On paper light, and all is open.
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = false;
  let before = null;
  function set(theme) {
    root.dataset.theme = theme;
    button.setAttribute("aria-pressed", String(theme === "dark"));
    document.dispatchEvent(new CustomEvent("redraw"));
  }
  button.hidden = false;
  button.setAttribute("aria-pressed", String(root.dataset.theme === "dark"));
  button.addEventListener("click", () => {
    chosen = true;
    set(root.dataset.theme === "dark" ? "light" : "dark");
  });
  system.addEventListener("change", () => chosen || set(system.matches ? "dark" : "light"));
  window.addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    if (before === "dark") set("light");
    for (const closed of all("details:not([open])")) closed.open = closed.dataset.opened = true;
  });
  window.addEventListener("afterprint", () => {
    if (before === "dark") set("dark");
    for (const opened of all("details[data-opened]")) {
      opened.open = false;
      delete opened.dataset.opened;
    }
  });
})();

// Figures are drawn one by one when the browser has nothing else to do, those in a closed tab when it is opened or
// printed, and again when colours or width change.
(() => {
  if (typeof Plotly === "undefined") return;
  const narrow = matchMedia("(max-width: 640px)");
  const drawn = new Map();
  const places = all("[data-figure]");
  const seen = (place) => place.offsetParent !== null;
  const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
  const webgl = Boolean(document.createElement("canvas").getContext("webgl"));

  function merged(base, more) {
    const result = { ...base };
    for (const [key, value] of Object.entries(more))
      result[key] = isObject(value) && isObject(base[key]) ? merged(base[key], value) : value;
    return result;
  }

  // Only what plotly takes for a colour is looked up: a text that reads "var(--x)" stays a text.
  function coloured(value, style, isColour = false) {
    if (typeof value === "string") {
      const name = isColour && /^var\((--[a-z0-9-]+)\)$/.exec(value);
      return name ? style.getPropertyValue(name[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map((each) => (isColour || isObject(each) ? coloured(each, style, isColour) : each));
    if (!isObject(value) || "bdata" in value) return value;
    return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, coloured(each, style, /color$/.test(key))]));
  }

  function parts(spec) {
    const style = getComputedStyle(document.documentElement);
    const layout = { ...coloured(narrow.matches ? merged(spec.layout, spec.narrow) : spec.layout, style), uirevision: 1 };
    if (narrow.matches) layout.dragmode = false; // a finger scrolls the page, not the figure
    const data = spec.data.map((trace) => {
      const result = coloured(trace, style);
      if (narrow.matches && result.mode === "markers+text") result.mode = "markers";
      if (!webgl && result.type === "scattergl") result.type = "scatter";
      return result;
    });
    return [data, layout];
  }

  function draw(place) {
    if (drawn.has(place)) return;
    const spec = JSON.parse(document.querySelector(`script[data-spec="${place.dataset.figure}"]`).textContent);
    drawn.set(place, spec);
    place.replaceChildren();
    Plotly.newPlot(place, ...parts(spec), {
      responsive: true,
      displaylogo: false,
      displayModeBar: "hover",
      scrollZoom: false,
      showTips: false,
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
      toImageButtonOptions: { filename: place.dataset.figure, format: "svg" },
    }).then(() => {
      place.dataset.drawn = "";
    });
  }

  const idle = window.requestIdleCallback ? (work) => requestIdleCallback(work, { timeout: 500 }) : (work) => setTimeout(work, 50);
  function drawNext() {
    const next = places.find((place) => !drawn.has(place) && seen(place));
    if (!next) return;
    draw(next);
    idle(drawNext);
  }

  function redraw() {
    for (const [place, spec] of drawn) if (seen(place)) Plotly.react(place, ...parts(spec));
    for (const place of drawn.keys()) if (seen(place)) Plotly.Plots.resize(place);
    idle(drawNext);
  }

  if (document.readyState === "complete") idle(drawNext);
  else window.addEventListener("load", () => idle(drawNext));
  document.addEventListener("redraw", redraw);
  narrow.addEventListener("change", redraw);
  window.addEventListener("beforeprint", () => {
    places.forEach(draw);
    for (const place of places) if (seen(place)) Plotly.Plots.resize(place);
  });

  // Switches: a trace is seen if its cloud and its class are both switched on.
  for (const group of all("[data-switches]")) {
    const place = document.querySelector(`[data-figure="${group.dataset.switches}"]`);
    group.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
      draw(place);
      const off = new Set(all('button[aria-pressed="false"]', group).map((each) => `${each.dataset.axis} ${each.dataset.value}`));
      const spec = drawn.get(place);
      for (const trace of spec.data) trace.visible = !trace.meta.some((value, axis) => off.has(`${axis} ${value}`));
      Plotly.react(place, ...parts(spec));
    });
  }
})();

// A table that is wider than the page is set closer, and where that is not enough as a list of its models: nothing is
// cut off. Tables sort by the heading that is pressed: numbers from the largest, names from A; then the other way round.
for (const region of all(".scroll")) {
  let width = -1;
  new ResizeObserver(() => {
    if (region.clientWidth === width) return;
    width = region.clientWidth;
    region.classList.remove("tight", "stacked");
    for (const closer of ["tight", "stacked"]) if (region.scrollWidth - width > 2) region.classList.add(closer);
  }).observe(region);
}
for (const table of all("table.sortable")) {
  table.tHead.addEventListener("click", (event) => {
    const heading = event.target.closest("th");
    const column = heading.cellIndex;
    const order = ["ascending", "descending"];
    if (column > 0) order.reverse();
    const chosen = order[heading.getAttribute("aria-sort") === order[0] ? 1 : 0];
    for (const each of all("th", table.tHead)) each.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", chosen);
    const key = (row) => {
      const cell = row.cells[column];
      return column === 0 ? cell.textContent : "key" in cell.dataset ? Number(cell.dataset.key) : null;
    };
    const sorted = [...table.tBodies[0].rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === null || y === null) return (x === null) - (y === null); // unknown values always last
      return (chosen === "ascending" ? 1 : -1) * (typeof x === "string" ? x.localeCompare(y) : x - y);
    });
    table.tBodies[0].replaceChildren(...sorted);
  });
}

// One tab for each panel (task); without scripts, and on paper, the panels stand one below the other.
for (const group of all("[data-tabs]")) {
  const panels = all(":scope > .panel", group);
  const list = element("div", "tabs");
  list.setAttribute("role", "tablist");
  list.setAttribute("aria-label", "Tasks");
  const tabs = panels.map((panel, number) => {
    const tab = element("button", "", panel.dataset.name);
    Object.assign(tab, { type: "button", id: `tab-${panel.id}` });
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", panel.id);
    panel.setAttribute("role", "tabpanel");
    panel.setAttribute("aria-labelledby", tab.id);
    tab.addEventListener("click", () => show(number));
    return tab;
  });
  function show(number) {
    tabs.forEach((tab, place) => {
      tab.setAttribute("aria-selected", String(place === number));
      tab.tabIndex = place === number ? 0 : -1;
      panels[place].hidden = place !== number;
    });
    document.dispatchEvent(new CustomEvent("redraw"));
  }
  list.addEventListener("keydown", (event) => {
    const at = tabs.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    tabs.at(to % tabs.length).focus();
    show((to + tabs.length) % tabs.length);
  });
  list.append(...tabs);
  group.classList.add("tabbed");
  group.prepend(list);
  show(0);
}

// The section that is being read is marked above.
const watcher = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries)
      document.querySelector(`.top a[href="#${target.id}"]`)?.setAttribute("aria-current", String(isIntersecting));
  },
  { rootMargin: "-20% 0px -75% 0px" },
);
all("main > section").forEach((section) => watcher.observe(section));

for (const button of all("[data-copy]")) {
  const source = document.getElementById(button.dataset.copy);
  button.hidden = false;
  button.addEventListener("click", async () => {
    let copied = await navigator.clipboard?.writeText(source.textContent).then(() => true, () => false);
    if (!copied) {
      getSelection().selectAllChildren(source); // a browser that keeps files from the clipboard
      copied = document.execCommand("copy");
    }
    button.textContent = copied ? "Copied" : "Selected";
    setTimeout(() => button.replaceChildren("Copy"), 2000);
  });
}

// The examples that student and teacher answer differently: searched as one types, by kind, 25 at a time.
(() => {
  const source = document.getElementById("disagreement-data");
  if (!source) return;
  const items = JSON.parse(source.textContent);
  const [AT_A_TIME, LONG] = [25, 700];
  const [list, shown, search, previous, next] = ["examples", "shown", "search", "previous", "next"].map((id) => document.getElementById(id));
  const haystacks = items.map((item) => [item.text, item.text_pair ?? "", item.label, item.teacher, item.student].join("\n").toLowerCase());
  let [kind, words, page] = ["", "", 0];

  // The text with what was searched for marked.
  function marked(text) {
    const low = text.toLowerCase();
    if (!words || low.length !== text.length) return [text]; // places would not fit (some capital letters grow)
    const parts = [];
    let from = 0;
    for (let at = low.indexOf(words); at >= 0 && parts.length < 200; at = low.indexOf(words, from)) {
      parts.push(text.slice(from, at), element("mark", "", text.slice(at, at + words.length)));
      from = at + words.length;
    }
    return [...parts, text.slice(from)];
  }

  function paragraph(text) {
    if (text.length <= LONG) return [element("p", "", ...marked(text))];
    const at = words ? Math.max(0, text.toLowerCase().indexOf(words) - 100) : 0;
    const made = element("p", "", at > 0 ? "… " : "", ...marked(text.slice(at, at + LONG)), " …");
    const more = element("button", "more", `Whole text (${text.length.toLocaleString("en")} characters)`);
    more.type = "button";
    more.addEventListener("click", () => {
      made.replaceChildren(...marked(text));
      more.remove();
    });
    return [made, more];
  }

  function answer(who, text, confidence, right) {
    const label = element("dd", "", element("bdi", right === null ? "" : right ? "right" : "wrong", ...marked(text)));
    if (right !== null) label.append(element("span", "hidden", right ? " (right)" : " (wrong)"));
    if (confidence !== null) {
      const frame = element("div", "bar", element("span"));
      frame.firstChild.style.width = `${100 * confidence}%`;
      frame.setAttribute("aria-hidden", "true");
      label.append(frame);
    }
    return [element("dt", "", who), label, element("dd", "number", confidence === null ? "" : `${(100 * confidence).toFixed(0)} %`)];
  }

  function example(item) {
    const badge = element("span", "badge", item.kind);
    if (item.kind === "lost" || item.kind === "won") badge.classList.add(item.kind);
    const about = element("div", "about", badge, element("span", "", `example ${item.number}`));
    const texts = element("div", "texts", about, ...paragraph(item.text), ...(item.text_pair === null ? [] : paragraph(item.text_pair)));
    const scores = item.teacher_confidence === null && item.student_confidence === null;
    const answers = element("dl", "answers", element("dt", "", "true"), element("dd", "", element("bdi", "", ...marked(item.label))), element("dd"));
    answers.append(...answer("teacher", item.teacher, item.teacher_confidence, scores ? null : item.teacher === item.label));
    answers.append(...answer("student", item.student, item.student_confidence, scores ? null : item.student === item.label));
    return element("li", "example", texts, answers);
  }

  function draw() {
    const found = items.filter((item, place) => (!kind || item.kind === kind) && haystacks[place].includes(words));
    const pages = Math.max(1, Math.ceil(found.length / AT_A_TIME));
    page = Math.min(page, pages - 1);
    const from = page * AT_A_TIME;
    const here = found.slice(from, from + AT_A_TIME);
    list.replaceChildren(...here.map(example));
    list.start = from + 1;
    shown.textContent = found.length ? `${from + 1}–${from + here.length} of ${found.length}` : "Nothing found";
    previous.disabled = page === 0;
    next.disabled = page >= pages - 1;
  }

  function turn(by) {
    page += by;
    draw();
    document.getElementById("disagreements").scrollIntoView({ block: "start" });
  }

  search.addEventListener("input", () => {
    [words, page] = [search.value.trim().toLowerCase(), 0];
    draw();
  });
  for (const button of all("[data-kind]"))
    button.addEventListener("click", () => {
      [kind, page] = [button.dataset.kind, 0];
      for (const each of all("[data-kind]")) each.setAttribute("aria-pressed", String(each === button));
      draw();
    });
  previous.addEventListener("click", () => turn(-1));
  next.addEventListener("click", () => turn(1));
  document.getElementById("disagreement-list").hidden = false;
  draw();
})();
