// Charts on the page: their controls, their data as a table, and the gallery that shows one of many.
"use strict";
(function () {
  const graphopt = (window.graphopt = window.graphopt || {});
  const { el, choice, number, whenNear, theme, chartConfig } = graphopt;

  const MANY = 40; // bars; with more of them one may want the first only
  const FIRST = 30;
  const drawn = new Set();

  theme.onChange(() => {
    for (const chart of drawn) {
      if (chart.canvas.isConnected) chart.draw();
      else drawn.delete(chart);
    }
  });

  /** Draws what `config()` says onto a canvas, again at each call of `draw` and when the theme changes. */
  function plot(label, config) {
    const canvas = el("canvas", { role: "img", "aria-label": label });
    const box = el("div", { class: "plot" }, canvas);
    let chart = null;
    const draw = () => {
      if (chart !== null) chart.destroy();
      const { height, config: wanted } = config();
      box.style.height = `${height}px`;
      chart = new window.Chart(canvas, wanted);
    };
    box.style.height = `${config().height}px`;
    const show = () => {
      draw();
      drawn.add({ canvas, draw });
    };
    whenNear(box, show, true);
    return { box, redraw: () => chart !== null && draw() };
  }

  /** The chart's data as a table, made when it is opened. */
  function disclosure(data, links) {
    const details = el("details", {}, el("summary", {}, "Data"));
    details.addEventListener("toggle", () => details.append(graphopt.table(data(), links).element), { once: true });
    return details;
  }

  /** Places of items: as given, or by the largest (smallest) of their values; items without values last. */
  function ordered(data, order) {
    const places = data.items.map((_, i) => i);
    if (order === "given") return places;
    const sign = order === "largest" ? -1 : 1;
    const key = data.values.map((values) => {
      const there = values.filter((value) => value !== null);
      return there.length ? sign * Math[order === "largest" ? "max" : "min"](...there) : Infinity;
    });
    return places.sort((a, b) => key[a] - key[b] || a - b);
  }

  function extremes(data) {
    const all = data.values.flatMap((values, i) => values.filter((v) => v !== null).map((v) => [v, data.items[i]]));
    if (!all.length) return "no values";
    const least = all.reduce((a, b) => (b[0] < a[0] ? b : a));
    const most = all.reduce((a, b) => (b[0] > a[0] ? b : a));
    return `least ${number(least[0])} (${least[1]}), most ${number(most[0])} (${most[1]})`;
  }

  function bars(data, links) {
    const many = data.items.length > MANY;
    const state = { order: "given", first: false };
    const shown = () => (state.first ? ordered(data, state.order).slice(0, FIRST) : ordered(data, state.order));
    const open = (i) => links.node(data.nodes[i])?.();
    const label = `${data.title}: ${data.items.length} bars, ${data.axis}; ${extremes(data)}`;
    const view = plot(label, () => chartConfig.bars(data, shown(), open));
    const set = (name, value) => {
      state[name] = value;
      view.redraw();
    };
    const orders = [
      ["given", "as given"],
      ["largest", "largest first"],
      ["smallest", "smallest first"],
    ];
    const amounts = [
      ["all", `all ${data.items.length}`],
      ["first", `first ${FIRST}, with names`],
    ];
    const controls = el(
      "div",
      { class: "tools" },
      choice("Order", orders, (value) => set("order", value)),
      many ? choice("Show", amounts, (value) => set("first", value === "first")) : null,
    );
    const linked = data.nodes.some((node) => node !== "");
    const table = () => ({
      title: "",
      note: "",
      columns: [
        { title: "item", kind: "text", unit: "" },
        ...(linked ? [{ title: "node", kind: "node", unit: "" }] : []),
        ...data.series.map((title) => ({ title, kind: "number", unit: "" })),
      ],
      rows: data.items.map((item, i) => [item, ...(linked ? [data.nodes[i]] : []), ...data.values[i]]),
    });
    return [data.items.length > 1 ? controls : null, view.box, disclosure(table, links)];
  }

  let counts = "linear"; // the choice holds for all histograms: one looks through many with it

  function histogram(data, links) {
    const total = data.counts.reduce((sum, count) => sum + count, 0);
    const marks = data.marks.map(([label, value]) => `${label} ${number(value)}`).join(", ");
    const label = `${data.title}: ${number(total)} values in ${data.counts.length} bins; ${marks}`;
    const view = plot(label, () => chartConfig.histogram(data, counts === "logarithmic"));
    const options = [
      ["linear", "linear"],
      ["logarithmic", "logarithmic"],
    ];
    const control = choice("Counts", options, (value) => {
      counts = value;
      view.redraw();
    });
    control.querySelector("select").value = counts;
    const open = links.tensor(data.tensor);
    const table = () => ({
      title: "",
      note: "",
      columns: ["from", "to", "count"].map((title) => ({ title, kind: "number", unit: "" })),
      rows: data.counts.map((count, i) => [data.edges[i], data.edges[i + 1], count]),
    });
    const where = open === null ? null : graphopt.link("Show in the graph", open);
    return [el("div", { class: "tools" }, control, where), view.box, disclosure(table, links)];
  }

  function scatter(data, links) {
    const count = data.series.reduce((sum, [, points]) => sum + points.length, 0);
    const marked = data.series.flatMap(([, points]) => points.filter((point) => point.mark));
    const essentials = marked.map((p) => `${p.label}: ${number(p.x)}, ${number(p.y)}`).join("; ");
    const label = `${data.title}: ${count} points, ${data.x_axis} against ${data.y_axis}. ${essentials}`;
    const table = () => ({
      title: "",
      note: "",
      columns: [
        { title: "series", kind: "text", unit: "" },
        { title: "point", kind: "text", unit: "" },
        { title: data.x_axis, kind: "number", unit: "" },
        { title: data.y_axis, kind: "number", unit: "" },
      ],
      rows: data.series.flatMap(([name, points]) => points.map((p) => [name, p.label, p.x, p.y])),
    });
    return [plot(label, () => chartConfig.scatter(data)).box, disclosure(table, links)];
  }

  const KINDS = { bars, histogram, scatter };

  /**
   * A chart with its heading.
   * @param {object} data one of the payload's charts
   * @param {object} links where its items lead: page.js makes it
   * @returns {HTMLElement}
   */
  graphopt.chart = function (data, links) {
    const heading = el("h3", {}, data.title);
    return el("figure", { class: "chart" }, heading, ...KINDS[data.kind](data, links).filter((part) => part !== null));
  };

  /**
   * One chart of many, by list, search, previous and next.
   * @param {object[]} charts
   * @param {object} links
   * @returns {{element: HTMLElement, about: function(string): number, only: function(string): void}} the number of charts
   *   about a node; and to show the first of those
   */
  graphopt.gallery = function (charts, links) {
    const stage = el("div", { class: "stage" });
    const position = el("span", { class: "count", role: "status" });
    let found = charts.map((_, i) => i);
    let at = 0;
    const list = el("select", { "aria-label": "Chart", change: () => show(found.indexOf(Number(list.value))) });
    const previous = el("button", { type: "button", click: () => show(at - 1) }, "Previous");
    const next = el("button", { type: "button", click: () => show(at + 1) }, "Next");

    function show(place) {
      at = place;
      previous.disabled = at <= 0;
      next.disabled = at >= found.length - 1;
      position.textContent = found.length ? `${at + 1} of ${found.length}` : "nothing matches";
      if (!found.length) return;
      list.value = String(found[at]);
      stage.replaceChildren(graphopt.chart(charts[found[at]], links));
    }

    function narrow(text) {
      const wanted = text.trim().toLowerCase();
      found = charts.map((_, i) => i).filter((i) => charts[i].title.toLowerCase().includes(wanted));
      list.replaceChildren(...found.map((i) => el("option", { value: String(i) }, charts[i].title)));
      show(0);
    }

    const search = el("input", {
      type: "search",
      placeholder: "Search",
      "aria-label": "Search charts",
      input: () => narrow(search.value),
    });
    whenNear(stage, () => narrow(""), true);
    stage.style.minHeight = "420px";
    const controls = el("div", { class: "tools" }, previous, next, list, search, position);
    const element = el("div", { class: "gallery" }, controls, stage);
    const isAbout = (name) => (chart) => chart.kind === "histogram" && links.makerOf(chart.tensor) === name;
    const only = (name) => {
      search.value = "";
      narrow("");
      show(charts.findIndex(isAbout(name)));
      element.scrollIntoView({ block: "start" });
    };
    return { element, about: (name) => charts.filter(isAbout(name)).length, only };
  };
})();
