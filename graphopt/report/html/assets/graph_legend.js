/** The legend: the signs that the drawn graph uses, and no others. */
(function () {
  "use strict";
  const graphopt = (globalThis.graphopt = globalThis.graphopt || {});
  const CHANGES = [
    ["added", "+ added"],
    ["changed", "~ changed"],
    ["removed", "− removed"],
  ];
  const PRECISIONS = [
    ["p-int8", "8 bits"],
    ["p-int4", "4 bits"],
    ["p-half", "16 bits"],
    ["p-float", "float32"],
    ["p-mixed", "mixed"],
    ["", "not known"],
  ];

  /** @returns {HTMLElement[]} the entries for a visible graph */
  graphopt.graphLegend = function graphLegend(visible, byPrecision) {
    const nodes = [...visible.nodes.values()];
    const swatch = (name) => graphopt.el("i", { class: `gv-swatch gv-${name}` });
    const entry = ([name, text]) => graphopt.el("span", { class: "gv-key" }, swatch(name), text);
    const drawn = (change) => [...nodes, ...visible.edges].some((each) => each.change === change);
    const entries = CHANGES.filter(([change]) => drawn(change)).map(entry);
    if (byPrecision) {
      const known = new Set(nodes.map((node) => graphopt.precisionClass(node.precision)));
      entries.push(...PRECISIONS.filter(([name]) => known.has(name)).map(entry));
    }
    if (nodes.some((node) => node.kind === "group")) entries.push(entry(["group", "▸ group: click to open"]));
    if (visible.edges.some((edge) => edge.via.length)) entries.push(entry(["quantized", "Q/DQ on the edge"]));
    return entries;
  };
})();
