// One tab for each panel (task); without scripts, and on paper, the panels stand one below the other.
(() => {
  "use strict";
  for (const group of document.querySelectorAll("[data-tabs]")) {
    const panels = [...group.querySelectorAll(":scope > .panel")];
    const list = document.createElement("div");
    list.className = "tabs";
    list.setAttribute("role", "tablist");
    list.setAttribute("aria-label", "Tasks");
    const tabs = panels.map((panel) => {
      const tab = document.createElement("button");
      tab.type = "button";
      tab.id = `tab-${panel.id}`;
      tab.textContent = panel.dataset.name;
      tab.setAttribute("role", "tab");
      tab.setAttribute("aria-controls", panel.id);
      panel.setAttribute("role", "tabpanel");
      panel.setAttribute("aria-labelledby", tab.id);
      tab.addEventListener("click", () => show(tabs.indexOf(tab)));
      list.append(tab);
      return tab;
    });

    function show(number) {
      tabs.forEach((tab, place) => {
        tab.setAttribute("aria-selected", String(place === number));
        tab.tabIndex = place === number ? 0 : -1;
        panels[place].hidden = place !== number;
      });
      document.dispatchEvent(new CustomEvent("panelshown"));
    }

    list.addEventListener("keydown", (event) => {
      const at = tabs.indexOf(document.activeElement);
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      const next = (to + tabs.length) % tabs.length;
      tabs[next].focus();
      show(next);
    });
    group.classList.add("tabbed");
    group.prepend(list);
    show(0);
  }

  // The section that is being read is marked above.
  const links = new Map([...document.querySelectorAll(".top nav a")].map((link) => [link.hash.slice(1), link]));
  const watcher = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) {
        if (isIntersecting) links.get(target.id)?.setAttribute("aria-current", "true");
        else links.get(target.id)?.removeAttribute("aria-current");
      }
    },
    { rootMargin: "-20% 0px -75% 0px" },
  );
  for (const id of links.keys()) {
    const section = document.getElementById(id);
    if (section) watcher.observe(section);
  }
})();
