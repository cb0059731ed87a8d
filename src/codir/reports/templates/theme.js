// Light and dark: as the system says, until the button is pressed; nothing is stored.
(() => {
  "use strict";
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = false;

  function set(theme) {
    root.dataset.theme = theme;
    button.setAttribute("aria-pressed", String(theme === "dark"));
    document.dispatchEvent(new CustomEvent("themechange"));
  }

  button.hidden = false;
  button.setAttribute("aria-pressed", String(root.dataset.theme === "dark"));
  button.addEventListener("click", () => {
    chosen = true;
    set(root.dataset.theme === "dark" ? "light" : "dark");
  });
  system.addEventListener("change", () => {
    if (!chosen) set(system.matches ? "dark" : "light");
  });

  let before = null;
  window.addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    if (before === "dark") set("light");
    for (const closed of document.querySelectorAll("details:not([open])")) {
      closed.open = true;
      closed.dataset.opened = "";
    }
  });
  window.addEventListener("afterprint", () => {
    if (before === "dark") set("dark");
    for (const opened of document.querySelectorAll("details[data-opened]")) {
      opened.open = false;
      delete opened.dataset.opened;
    }
  });
})();
