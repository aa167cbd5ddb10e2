// Tables: sorted by any column, filtered by what stands above them (table_filters.js), drawn where they are in sight.
"use strict";
(function () {
  const graphopt = (window.graphopt = window.graphopt || {});
  const { el, number, whenNear } = graphopt;

  const ROWS_WITHOUT_TOOLS = 8; // short tables can be read as they are
  const HEIGHT = 480; // px; longer tables scroll and draw only the rows in sight
  const ROW = 29; // px, as page.css has it
  const MEASURED = 400; // rows that a column's width is taken from
  const NARROWEST = { node: 220, tensor: 200, step: 210, text: 160 }; // px that a column of long texts can do with
  const WIDEST = { node: 320, tensor: 320, step: 240, text: 620, number: 160 };
  const LEADS = {
    node: (links, name, step) => links.node(name, step),
    tensor: (links, name, step) => links.tensor(name, step),
    step: (links, index) => links.step(index),
  };
  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

  /** What a cell shows, as text. */
  function cellText(value, column, links) {
    if (value === null) return "";
    if (column.kind === "step") return links.stepTitle(value);
    return column.kind === "number" ? number(value, column.unit) : String(value);
  }

  /** Ascending; Tabulator turns the result round for descending, so nothing and text among numbers turn it back. */
  function compare(a, b, direction) {
    const last = direction === "desc" ? -1 : 1;
    if (a === null || b === null) return a === b ? 0 : a === null ? last : -last;
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a !== typeof b) return typeof a === "string" ? last : -last;
    return collator.compare(a, b);
  }

  /** A cell's content. `step` is that of its row, where the row is about one: a node is shown as it is there. */
  function cellNode(value, column, step, links) {
    const text = cellText(value, column, links);
    const leads = value !== null && column.kind in LEADS;
    const open = leads ? LEADS[column.kind](links, value, step) : null;
    return open === null ? el("span", {}, text) : graphopt.link(text, open);
  }

  /** A link that calls `open`, wherever it stands. */
  graphopt.link = function (text, open) {
    const follow = (event) => {
      event.preventDefault();
      open();
    };
    return el("a", { href: "#graph", class: "to-graph", title: text, click: follow }, el("bdi", {}, text));
  };

  const ruler = document.createElement("canvas").getContext("2d");

  /** @returns {number} px that a text takes, bold for headings */
  function widthOf(text, bold = false) {
    ruler.font = `${bold ? "600 " : ""}13px system-ui, "Segoe UI", Roboto, sans-serif`;
    return ruler.measureText(text).width;
  }

  function columnOf(data, index, links) {
    const column = data.columns[index];
    const stepAt = data.columns.findIndex(({ kind }) => kind === "step");
    const texts = new Set(data.rows.slice(0, MEASURED).map((row) => cellText(row[index], column, links)));
    const longest = Math.max(0, ...[...texts].map((text) => widthOf(text)));
    const title = [widthOf(column.title, true) / 2, ...column.title.split(" ").map((word) => widthOf(word, true))];
    const words = Math.max(...title) + 38; // a title may take two lines
    const right = column.kind === "number";
    const wanted = Math.min(WIDEST[column.kind], Math.max(longest + 24, words));
    const wraps = column.kind === "text" && longest + 24 > NARROWEST.text;
    return {
      title: column.title,
      field: `c${index}`,
      hozAlign: right ? "right" : "left",
      headerHozAlign: right ? "right" : "left",
      minWidth: right ? wanted : Math.max(words, Math.min(wanted, NARROWEST[column.kind])),
      widthGrow: right ? 0.2 : wanted / 100,
      headerWordWrap: true,
      frozen: index === 0 && column.kind in LEADS,
      cssClass: `kind-${column.kind}${wraps ? " wraps" : ""}`,
      variableHeight: wraps,
      titleFormatter: () => el("button", { type: "button", class: "sort" }, column.title), // for the keyboard
      formatter: (cell) => cellNode(cell.getValue(), column, cell.getData()[`c${stepAt}`], links),
      sorter: (a, b, _rowA, _rowB, _column, direction) => compare(a, b, direction),
    };
  }

  function grid(container, data, rows, links, filters, counted) {
    const table = new window.Tabulator(container, {
      data: rows,
      columns: data.columns.map((_, index) => columnOf(data, index, links)),
      layout: "fitColumns",
      maxHeight: HEIGHT,
      columnDefaults: { headerSortTristate: true, resizable: "header" },
      placeholder: "nothing matches",
    });
    table.on("tableBuilt", () => {
      table.setFilter(filters.keeps);
      // Tabulator makes the element that scrolls no part of the grid, and the one in it a group of rows.
      container.querySelector(".tabulator-tableholder").setAttribute("role", "rowgroup");
      container.querySelector(".tabulator-table").setAttribute("role", "presentation");
    });
    const toTop = () => (container.querySelector(".tabulator-tableholder").scrollTop = 0);
    table.on("dataSorted", (sorters) => sorters.length && setTimeout(toTop)); // it keeps the place when it draws
    table.on("dataFiltered", (_filters, left) => counted(left.length));
    return table;
  }

  /** On paper a table has all rows that it shows, in its order, also those that a grid hasn't drawn. */
  function printed(data, rows) {
    const head = el("tr", {}, ...data.columns.map(({ title }) => el("th", {}, title)));
    const line = (row) =>
      el("tr", {}, ...row.shown.map((text, k) => el("td", { class: `kind-${data.columns[k].kind}` }, text)));
    return el("table", { class: "printed" }, el("thead", {}, head), el("tbody", {}, ...rows.map(line)));
  }

  function printable(container, data, rows) {
    let paper = null;
    window.addEventListener("beforeprint", () => {
      if (paper === null && container.isConnected) container.after((paper = printed(data, rows())));
    });
    window.addEventListener("afterprint", () => {
      if (paper !== null) paper.remove();
      paper = null;
    });
  }

  /** The table without columns in which no row has anything. */
  function withoutEmpty(data) {
    const kept = data.columns.map((_, k) => k).filter((k) => data.rows.some((row) => row[k] !== null && row[k] !== ""));
    if (kept.length === 0) return data;
    return {
      ...data,
      columns: kept.map((k) => data.columns[k]),
      rows: data.rows.map((row) => kept.map((k) => row[k])),
    };
  }

  /**
   * A table with its heading, note and filters.
   * @param {object} given the payload's TableData
   * @param {object} links where cells lead: page.js makes it
   * @returns {{element: HTMLElement, about: function(string): number, only: function(string): void}} the number of rows
   *   about a node; and to show those alone
   */
  graphopt.table = function (given, links) {
    const data = withoutEmpty(given);
    const rows = data.rows.map((cells, i) => {
      const shown = cells.map((cell, k) => cellText(cell, data.columns[k], links));
      const row = { id: i, shown, text: shown.join("\n").toLowerCase() };
      cells.forEach((cell, k) => (row[`c${k}`] = cell));
      return row;
    });
    const counter = el("span", { class: "count", role: "status" });
    const counted = (left) => {
      const all = rows.length === 1 ? "1 row" : `${rows.length} rows`;
      counter.textContent = left === rows.length ? all : `${left} of ${all}`;
    };
    counted(rows.length);
    const container = el("div", { class: "grid", "aria-label": data.title || "table" });
    container.style.minHeight = `${Math.min(HEIGHT, ROW * (rows.length + 1))}px`;
    let table = null;
    const filters = graphopt.tableFilters(data, rows, links, () => {
      if (table !== null && table.initialized) table.setFilter(filters.keeps);
    });
    whenNear(container, () => {
      table = grid(container, data, rows, links, filters, counted);
      container.style.minHeight = "";
    });
    const inSight = () =>
      table === null ? rows.filter(filters.keeps) : table.getRows("active").map((row) => row.getData());
    printable(container, data, inSight);
    const long = rows.length > ROWS_WITHOUT_TOOLS;
    const element = el(
      "div",
      { class: "table" },
      data.title ? el("h3", {}, data.title) : null,
      data.note ? el("p", { class: "note" }, data.note) : null,
      long ? filters.element : null,
      container,
      long ? counter : null,
    );
    const only = (name) => {
      if (long) filters.only(name);
      element.scrollIntoView({ block: "start" });
    };
    return { element, about: filters.about, only };
  };
})();
