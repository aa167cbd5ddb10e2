// The page: sections from the payload, the table of contents, and the links between tables, charts and the graph.
"use strict";
(function () {
  const graphopt = window.graphopt;
  const { el, theme } = graphopt;
  const payload = JSON.parse(document.getElementById("payload").textContent);

  /** Where cells lead: functions that open the graph there, null where there is nothing to open. */
  function linksInto(graph, panel) {
    const makers = new Map(); // tensor → the node that makes it last
    const names = new Set();
    const steps = graph === null ? [] : graph.steps;
    for (const node of graph === null ? [] : graph.nodes) {
      names.add(node.name);
      for (const tensor of node.outputs) makers.set(tensor, node.name);
    }
    const node = (name, step) => (names.has(name) ? () => panel.openNode(name, step) : null);
    return {
      node,
      makerOf: (tensor) => makers.get(tensor),
      tensor: (name, step) => (makers.has(name) ? node(makers.get(name), step) : null),
      step: (index) => (index in steps ? () => panel.openStep(index) : null),
      stepTitle: (index) => (index in steps ? graphopt.stepName(steps[index]) : String(index)),
    };
  }

  /** The graph's section. The view is made after the first paint, since its layout takes time. */
  function graphPanel(graph, places) {
    const container = el("div", { id: "graph-view" });
    const panel = el("div", { id: "graph-panel" });
    const whole = el("button", { type: "button", click: () => toggle() }, "Full screen");
    const toggle = () => (document.fullscreenElement ? document.exitFullscreen() : panel.requestFullscreen());
    whole.hidden = !document.fullscreenEnabled;
    const rows = graphopt.nodeRows(places);
    panel.append(container, rows.element);
    const section = el(
      "section",
      { id: "graph", "aria-labelledby": "graph-title" },
      el("h2", { id: "graph-title" }, graph.steps.length > 2 ? "Graph, step by step" : "Graph"),
      el("div", { class: "tools" }, whole),
      panel,
    );
    let made = null;
    const view = () => {
      if (made === null) {
        made = graphopt.GraphView(container, graph, { onSelect: rows.show });
        made.setTheme(theme.current());
        theme.onChange((shown) => made.setTheme(shown));
        made.ready.then(() => {
          performance.mark("graph-ready");
          document.documentElement.dataset.graph = "ready";
        });
      }
      return made;
    };
    const open = (show) => {
      section.scrollIntoView({ block: "start" });
      view().ready.then(show);
    };
    requestAnimationFrame(() => setTimeout(view));
    return {
      section,
      openNode: (name, step) => open(() => view().select(name, { zoom: true, step: step ?? undefined })),
      openStep: (index) => open(() => view().showStep(index)),
    };
  }

  function figure({ label, value, note, tone }) {
    return el(
      "div",
      { class: `figure ${tone ? `tone-${tone}` : ""}` },
      el("dt", {}, label),
      el("dd", { class: "value" }, value),
      note ? el("dd", { class: "note" }, note) : null,
    );
  }

  /** A text to paste somewhere, with a button that copies it, or selects it where that is refused. */
  function command([label, text]) {
    const shown = el("pre", {}, text);
    const copy = el("button", { type: "button" }, "Copy");
    copy.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
        copy.textContent = "Copied";
      } catch {
        window.getSelection().selectAllChildren(shown);
      }
    });
    return el("div", { class: "command" }, el("h3", {}, label), el("div", { class: "code" }, shown, copy));
  }

  /** A part's own heading is left out where it says what the section's says. */
  const part = (made, data, section) => {
    if (data.title === section.title) made.querySelector("h3").hidden = true;
    return made;
  };

  function sectionOf(section, links, places) {
    const tables = section.tables.map((data) => ({ data, made: graphopt.table(data, links) }));
    for (const { data, made } of tables) {
      const title = data.title && data.title !== section.title ? `${section.title}: ${data.title}` : section.title;
      places.push({ ...made, title });
    }
    const gallery = section.gallery.length ? graphopt.gallery(section.gallery, links) : null;
    if (gallery !== null) places.push({ ...gallery, title: `${section.title}: chart` });
    return el(
      "section",
      { id: section.id, "aria-labelledby": `${section.id}-title` },
      el("h2", { id: `${section.id}-title` }, section.title),
      section.warnings.length ? el("ul", { class: "warnings" }, ...section.warnings.map((w) => el("li", {}, w))) : null,
      section.figures.length ? el("dl", { class: "figures" }, ...section.figures.map(figure)) : null,
      ...section.text.map((paragraph) => el("p", {}, paragraph)),
      ...section.commands.map(command),
      ...tables.map(({ data, made }) => part(made.element, data, section)),
      ...section.charts.map((chart) => part(graphopt.chart(chart, links), chart, section)),
      gallery === null ? null : gallery.element,
    );
  }

  /** The contents, with the section in sight marked. */
  function contents(sections) {
    const links = new Map();
    for (const section of sections) {
      links.set(section, el("a", { href: `#${section.id}` }, section.querySelector("h2").textContent));
    }
    const list = document.querySelector(".contents");
    list.append(...links.values());
    const mark = () => {
      const passed = sections.filter((section) => section.getBoundingClientRect().top < 120);
      const atEnd = window.innerHeight + window.scrollY >= document.documentElement.scrollHeight - 2;
      const current = atEnd ? sections[sections.length - 1] : passed[passed.length - 1] || sections[0];
      for (const [section, link] of links) link.toggleAttribute("aria-current", section === current);
      if (current) list.scrollLeft = links.get(current).offsetLeft - list.offsetLeft - 40; // in a row, on narrow windows
    };
    window.addEventListener("scroll", mark, { passive: true });
    mark();
  }

  const places = []; // where a node may be mentioned
  const panel = payload.graph === null ? null : graphPanel(payload.graph, places);
  const links = linksInto(payload.graph, panel);
  const [first, ...others] = payload.sections.map((section) => sectionOf(section, links, places));
  const sections = [first, panel === null ? null : panel.section, ...others].filter(Boolean);
  document.querySelector("main").append(...sections);
  contents(sections);
  const select = document.getElementById("theme");
  select.value = theme.chosen();
  select.addEventListener("change", () => theme.choose(select.value));
})();
