// What narrows a table: a text, the columns that hold few different texts, and the node that the graph has selected.
"use strict";
(function () {
  const graphopt = (window.graphopt = window.graphopt || {});
  const { el, choice } = graphopt;

  const FACETS = 3; // selects above a table at most
  const FACET_VALUES = 40; // a column with more different texts isn't one to choose from
  const LONGEST = 60; // characters of a text that a select can show
  const ALL = "\u0000";
  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

  /** The columns worth a select: few different texts, and more rows than texts. */
  function facets(data, rows) {
    const found = [];
    data.columns.forEach((column, index) => {
      if (column.kind !== "text" && column.kind !== "step") return;
      const values = new Set(rows.map((row) => row.shown[index]));
      const short = [...values].every((text) => text.length <= LONGEST);
      if (short && values.size > 1 && values.size <= Math.min(FACET_VALUES, rows.length / 2)) {
        found.push({ index, title: column.title, values: [...values].sort(collator.compare) });
      }
    });
    return found.slice(0, FACETS);
  }

  /** Node → rows that name it, or a tensor that it makes. */
  function rowsOfNodes(data, rows, links) {
    const found = new Map();
    data.columns.forEach(({ kind }, k) => {
      if (kind !== "node" && kind !== "tensor") return;
      for (const row of rows) {
        const name = kind === "node" ? row[`c${k}`] : links.makerOf(row[`c${k}`]);
        if (!found.has(name)) found.set(name, new Set());
        found.get(name).add(row.id);
      }
    });
    return found;
  }

  /**
   * @param {object} data the payload's TableData
   * @param {object[]} rows with `id`, `shown` (text of each cell) and `text` (all of it, in lower case)
   * @param {object} links page.js makes it
   * @param {function(): void} changed called when other rows are to be shown
   * @returns {{element: HTMLElement, keeps: function(object): boolean, about: function(string): number,
   *   only: function(string): void}}
   */
  graphopt.tableFilters = function (data, rows, links, changed) {
    const wanted = { text: "", facets: new Map(), node: null };
    let nodes = null;
    const rowsOf = (name) => {
      if (nodes === null) nodes = rowsOfNodes(data, rows, links);
      return nodes.get(name) || new Set();
    };
    const keeps = (row) => {
      if (wanted.text && !row.text.includes(wanted.text)) return false;
      if (wanted.node !== null && !rowsOf(wanted.node).has(row.id)) return false;
      return [...wanted.facets].every(([index, value]) => row.shown[index] === value);
    };
    let waiting = 0;
    const search = el("input", {
      type: "search",
      placeholder: "Filter",
      "aria-label": `Filter ${data.title}`,
      input: () => {
        clearTimeout(waiting);
        wanted.text = search.value.trim().toLowerCase();
        waiting = setTimeout(changed, 100);
      },
    });
    const selects = facets(data, rows).map(({ index, title, values }) =>
      choice(title, [[ALL, "all"], ...values.map((value) => [value, value || "(none)"])], (value) => {
        if (value === ALL) wanted.facets.delete(index);
        else wanted.facets.set(index, value);
        changed();
      }),
    );
    const node = el("button", { type: "button", class: "only", hidden: true, click: () => only(null) });
    function only(name) {
      wanted.node = name;
      node.hidden = name === null;
      node.replaceChildren("only ", el("bdi", {}, name || ""), " ×");
      if (name !== null) {
        search.value = wanted.text = "";
        wanted.facets.clear();
        for (const select of selects) select.querySelector("select").value = ALL;
      }
      changed();
    }
    const element = el("div", { class: "tools" }, search, ...selects, node);
    return { element, keeps, about: (name) => rowsOf(name).size, only };
  };
})();
