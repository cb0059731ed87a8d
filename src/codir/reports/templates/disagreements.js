// The examples: searched as one types, by kind, 25 at a time. Texts are set as text, never as HTML.
(() => {
  "use strict";
  const source = document.getElementById("disagreement-data");
  if (!source) return;
  const items = JSON.parse(source.textContent);
  const AT_A_TIME = 25;
  const LONG = 700;
  const list = document.getElementById("examples");
  const shown = document.getElementById("shown");
  const search = document.getElementById("search");
  const previous = document.getElementById("previous");
  const next = document.getElementById("next");
  const kinds = [...document.querySelectorAll("[data-kind]")];
  const haystacks = items.map((item) => [item.t, item.p ?? "", item.l, item.a, item.b].join("\n").toLowerCase());
  let kind = "";
  let words = "";
  let page = 0;

  function element(name, className, ...children) {
    const made = document.createElement(name);
    if (className) made.className = className;
    made.append(...children); // strings become text nodes
    return made;
  }

  // The text with what was searched for marked.
  function marked(text) {
    if (!words) return [text];
    const low = text.toLowerCase();
    if (low.length !== text.length) return [text]; // places would not fit (some capital letters grow)
    const parts = [];
    let from = 0;
    for (let at = low.indexOf(words); at >= 0 && parts.length < 200; at = low.indexOf(words, from)) {
      parts.push(text.slice(from, at), element("mark", "", text.slice(at, at + words.length)));
      from = at + words.length;
    }
    return [...parts, text.slice(from)];
  }

  function paragraph(text) {
    const made = element("p");
    made.dir = "auto";
    if (text.length <= LONG) {
      made.append(...marked(text));
      return [made];
    }
    const at = words ? Math.max(0, text.toLowerCase().indexOf(words) - 100) : 0;
    made.append(at > 0 ? "… " : "", ...marked(text.slice(at, at + LONG)), " …");
    const more = element("button", "more", `Whole text (${text.length.toLocaleString("en")} characters)`);
    more.type = "button";
    more.addEventListener("click", () => {
      made.replaceChildren(...marked(text));
      more.remove();
    });
    return [made, more];
  }

  function answer(who, text, confidence, right) {
    const label = element("dd", "");
    const name = element("bdi", right === null ? "" : right ? "right" : "wrong", ...marked(text));
    label.append(name);
    if (right !== null) label.append(element("span", "hidden", right ? " (right)" : " (wrong)"));
    const number = element("dd", "number", confidence === null ? "" : `${(100 * confidence).toFixed(0)} %`);
    if (confidence !== null) {
      const bar = element("span");
      bar.style.width = `${100 * confidence}%`;
      const frame = element("div", "bar", bar);
      frame.setAttribute("aria-hidden", "true");
      label.append(frame);
    }
    return [element("dt", "", who), label, number];
  }

  function example(item) {
    const texts = element("div", "texts");
    const badge = element("span", "badge", item.k);
    if (item.k === "lost" || item.k === "won") badge.classList.add(item.k);
    const about = element("div", "about", badge, element("span", "", `example ${item.n}`));
    texts.append(about, ...paragraph(item.t));
    if (item.p !== null) texts.append(...paragraph(item.p));
    const scores = item.c === null && item.d === null;
    const answers = element("dl", "answers");
    const truth = element("dd", "", element("bdi", "", ...marked(item.l)));
    answers.append(element("dt", "", "true"), truth, element("dd"));
    answers.append(...answer("teacher", item.a, item.c, scores ? null : item.a === item.l));
    answers.append(...answer("student", item.b, item.d, scores ? null : item.b === item.l));
    return element("li", "example", texts, answers);
  }

  function draw() {
    const found = items.filter((item, place) => (!kind || item.k === kind) && haystacks[place].includes(words));
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
    words = search.value.trim().toLowerCase();
    page = 0;
    draw();
  });
  for (const button of kinds) {
    button.addEventListener("click", () => {
      kind = button.dataset.kind;
      page = 0;
      for (const each of kinds) each.setAttribute("aria-pressed", String(each === button));
      draw();
    });
  }
  previous.addEventListener("click", () => turn(-1));
  next.addEventListener("click", () => turn(1));
  document.getElementById("disagreement-list").hidden = false;
  draw();
})();
