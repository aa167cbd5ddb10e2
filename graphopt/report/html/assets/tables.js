// Tables: sorted by any column, filtered by text and by the columns that hold few different texts.
"use strict";
(function () {
  const graphopt = (window.graphopt = window.graphopt || {});
  const { el, choice, number, whenNear } = graphopt;

  const FACETS = 3; // selects above a table at most
  const FACET_VALUES = 40; // a column with more different texts isn't one to choose from
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
      sorter: (a, b, _rowA, _rowB, _column, direction) =>
        column.kind === "step" && a !== null && b !== null ? a - b : compare(a, b, direction),
    };
  }

  /** The columns worth a select: few different texts, and more rows than texts. */
  function facets(data, links) {
    const found = [];
    data.columns.forEach((column, index) => {
      if (column.kind !== "text" && column.kind !== "step") return;
      const values = new Set(data.rows.map((row) => cellText(row[index], column, links)));
      const short = [...values].every((text) => text.length <= 60);
      if (short && values.size > 1 && values.size <= Math.min(FACET_VALUES, data.rows.length / 2)) {
        found.push({ index, title: column.title, values: [...values].sort(collator.compare) });
      }
    });
    return found.slice(0, FACETS);
  }

  function tools(data, rows, links, filter) {
    const wanted = { text: "", facets: new Map() };
    const apply = () =>
      filter((row) => {
        if (wanted.text && !row.text.includes(wanted.text)) return false;
        return [...wanted.facets].every(([index, value]) => row.shown[index] === value);
      });
    let waiting = 0;
    const search = el("input", {
      type: "search",
      placeholder: "Filter",
      "aria-label": `Filter ${data.title}`,
      input: () => {
        clearTimeout(waiting);
        wanted.text = search.value.trim().toLowerCase();
        waiting = setTimeout(apply, 100);
      },
    });
    const selects = facets(data, links).map(({ index, title, values }) =>
      choice(title, [["\u0000", "all"], ...values.map((value) => [value, value || "(none)"])], (value) => {
        if (value === "\u0000") wanted.facets.delete(index);
        else wanted.facets.set(index, value);
        apply();
      }),
    );
    return el("div", { class: "tools" }, search, ...selects);
  }

  function grid(container, data, rows, links, counted) {
    const table = new window.Tabulator(container, {
      data: rows,
      columns: data.columns.map((_, index) => columnOf(data, index, links)),
      layout: "fitColumns",
      maxHeight: HEIGHT,
      columnDefaults: { headerSortTristate: true, resizable: "header" },
      placeholder: "nothing matches",
    });
    table.on("tableBuilt", () => {
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
    const line = (row) => el("tr", {}, ...row.shown.map((text, k) => el("td", { class: `kind-${data.columns[k].kind}` }, text)));
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

  /**
   * A table with its heading, note and filters.
   * @param {object} data the payload's TableData
   * @param {object} links where cells lead: page.js makes it
   * @returns {HTMLElement}
   */
  graphopt.table = function (data, links) {
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
    whenNear(container, () => {
      table = grid(container, data, rows, links, counted);
      container.style.minHeight = "";
    });
    printable(container, data, () => (table === null ? rows : table.getRows("active").map((row) => row.getData())));
    const filter = (keeps) => table !== null && table.setFilter(keeps);
    const long = rows.length > ROWS_WITHOUT_TOOLS;
    return el(
      "div",
      { class: "table" },
      data.title ? el("h3", {}, data.title) : null,
      data.note ? el("p", { class: "note" }, data.note) : null,
      long ? tools(data, rows, links, filter) : null,
      container,
      long ? counter : null,
    );
  };
})();
