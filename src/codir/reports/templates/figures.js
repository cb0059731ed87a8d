// Figures are drawn when they come near the screen, the others one by one when the browser has nothing else to do (a
// screenshot or a print of a page that nobody has scrolled has them all), and again when colours or width change.
(() => {
  "use strict";
  if (typeof Plotly === "undefined") return;
  const narrow = matchMedia("(max-width: 640px)");
  const drawn = new Map();
  const webgl = (() => {
    try {
      const context = document.createElement("canvas").getContext("webgl");
      if (context) context.getExtension("WEBGL_lose_context")?.loseContext();
      return Boolean(context);
    } catch {
      return false;
    }
  })();

  const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

  function merged(base, more) {
    const result = { ...base };
    for (const [key, value] of Object.entries(more))
      result[key] = isObject(value) && isObject(base[key]) ? merged(base[key], value) : value;
    return result;
  }

  // Only what plotly takes for a colour is looked up: a text that reads "var(--x)" stays a text.
  function coloured(value, style, isColour) {
    if (typeof value === "string") {
      const name = isColour && /^var\((--[a-z0-9-]+)\)$/.exec(value);
      return name ? style.getPropertyValue(name[1]).trim() : value;
    }
    if (Array.isArray(value)) return isColour ? value.map((each) => coloured(each, style, true)) : value.map((each) => (isObject(each) ? coloured(each, style, false) : each));
    if (!isObject(value) || "bdata" in value) return value;
    const result = {};
    for (const [key, each] of Object.entries(value)) result[key] = coloured(each, style, /color$/.test(key));
    return result;
  }

  function dressed(spec) {
    const style = getComputedStyle(document.documentElement);
    let layout = narrow.matches ? merged(spec.layout, spec.narrow) : spec.layout;
    layout = { ...coloured(layout, style, false), uirevision: 1 };
    if (narrow.matches) layout.dragmode = false; // a finger scrolls the page, not the figure
    const data = spec.data.map((trace) => {
      const result = coloured(trace, style, false);
      if (narrow.matches && result.mode === "markers+text") result.mode = "markers";
      if (!webgl && result.type === "scattergl") result.type = "scatter";
      return result;
    });
    return [data, layout];
  }

  const config = {
    responsive: true,
    displaylogo: false,
    displayModeBar: "hover",
    scrollZoom: false,
    showTips: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
  };

  function draw(place) {
    if (drawn.has(place)) return;
    const source = document.querySelector(`script[data-spec="${place.dataset.figure}"]`);
    const spec = JSON.parse(source.textContent);
    drawn.set(place, spec);
    place.replaceChildren();
    const [data, layout] = dressed(spec);
    const options = { ...config, toImageButtonOptions: { filename: place.dataset.figure, format: "svg" } };
    Plotly.newPlot(place, data, layout, options).then(() => {
      place.dataset.drawn = "";
    });
  }

  function again(place) {
    const spec = drawn.get(place);
    if (spec && place.offsetParent !== null) Plotly.react(place, ...dressed(spec));
    else if (spec) place.dataset.stale = "";
  }

  const all = [...document.querySelectorAll("[data-figure]")];
  const watcher = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue;
        if ("stale" in target.dataset) {
          delete target.dataset.stale;
          again(target);
        }
        draw(target);
      }
    },
    { rootMargin: "600px 0px" },
  );
  for (const place of all) watcher.observe(place);

  // A figure in a closed tab has no size yet: it is drawn when its tab is opened, or on paper.
  const idle = window.requestIdleCallback ? (work) => requestIdleCallback(work, { timeout: 500 }) : (work) => setTimeout(work, 50);
  function drawNext() {
    const next = all.find((place) => !drawn.has(place) && place.offsetParent !== null);
    if (!next) return;
    draw(next);
    idle(drawNext);
  }
  if (document.readyState === "complete") idle(drawNext);
  else window.addEventListener("load", () => idle(drawNext));

  const redraw = () => {
    for (const place of drawn.keys()) again(place);
  };
  document.addEventListener("themechange", redraw);
  narrow.addEventListener("change", redraw);
  document.addEventListener("panelshown", () => {
    for (const place of drawn.keys()) if (place.offsetParent !== null) Plotly.Plots.resize(place);
    idle(drawNext);
  });
  window.addEventListener("beforeprint", () => {
    for (const place of all) {
      draw(place);
      if (place.offsetParent !== null) Plotly.Plots.resize(place);
    }
  });

  // Switches: a trace is seen if its cloud and its class are both switched on.
  for (const group of document.querySelectorAll("[data-switches]")) {
    const place = document.querySelector(`[data-figure="${group.dataset.switches}"]`);
    group.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
      draw(place);
      const off = [new Set(), new Set()];
      for (const each of group.querySelectorAll('button[aria-pressed="false"]')) off[Number(each.dataset.axis)].add(Number(each.dataset.value));
      for (const trace of drawn.get(place).data) trace.visible = !trace.meta.some((value, axis) => off[axis].has(value));
      again(place);
    });
  }
})();
