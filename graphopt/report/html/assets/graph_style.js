/** How nodes and edges look: sizes of labels, and Cytoscape's style sheet in the page's colours. */
(function () {
  "use strict";
  const graphopt = (globalThis.graphopt = globalThis.graphopt || {});
  const FONT = 12;
  const FAMILY = 'system-ui, "Segoe UI", Roboto, sans-serif';
  const LONGEST_LINE = 30;
  const SIGNS = { added: "+ ", changed: "~ ", removed: "− " };

  /** What a change looks like besides its colour. */
  graphopt.changeSigns = SIGNS;

  /** The end of a long name, which is what tells it from others. */
  function shortened(text) {
    return text.length > LONGEST_LINE ? "…" + text.slice(1 - LONGEST_LINE) : text;
  }

  /** The lines of a node's label. */
  function labelOf(node, byPrecision, badges) {
    const sign = SIGNS[node.change] || "";
    if (node.kind === "pair") return [sign + node.title];
    if (node.kind === "input" || node.kind === "output")
      return [`${node.kind} ${shortened(node.title)}`, node.subtitle];
    if (node.kind === "constant") return [shortened(node.title), node.subtitle];
    const precision = byPrecision && node.precision ? ` · ${node.precision}` : "";
    if (node.kind === "group") {
      const touched = node.touched ? ` (${node.touched} changed)` : "";
      const named = node.scopeName ? `${shortened(node.scopeName)}: ` : "";
      return [`▸ ${sign}${named}${node.title}${touched}${precision}`, node.subtitle];
    }
    const inside = node.members.length ? ` ▸ ${node.members.length} nodes inside` : "";
    const lines = [sign + node.title + precision + inside, shortened(node.subtitle)];
    if (node.stored.size) lines.push(`constants ${[...node.stored].join(", ")}`);
    if (badges.length) lines.push(shortened(badges.join(" · ")));
    return lines;
  }

  const context = typeof document === "undefined" ? null : document.createElement("canvas").getContext("2d");

  /** @returns {{label: string, width: number, height: number}} of a node, in pixels at zoom 1 */
  graphopt.labelled = function labelled(node, byPrecision, badges) {
    const lines = labelOf(node, byPrecision, badges).filter(Boolean);
    context.font = `${FONT}px ${FAMILY}`;
    const widest = Math.max(...lines.map((line) => context.measureText(line).width));
    return { label: lines.join("\n"), width: Math.max(44, widest + 16), height: lines.length * 15 + 10 };
  };

  /** The page's colours as [r, g, b]. */
  function palette(container) {
    const probe = document.createElement("span");
    container.append(probe);
    const read = (name) => {
      probe.style.color = `var(--${name})`;
      return getComputedStyle(probe)
        .color.match(/[\d.]+/g)
        .slice(0, 3)
        .map(Number);
    };
    const names = ["bg", "fg", "muted", "line", "accent", "good", "warn", "bad", "panel"];
    const colours = Object.fromEntries(names.map((name) => [name, read(name)]));
    probe.remove();
    return colours;
  }

  const rgb = (colour) => `rgb(${colour.map(Math.round).join(",")})`;
  const mix = (a, b, share) => rgb(a.map((value, k) => value + (b[k] - value) * share));

  /** "int8" → the class of nodes that compute in it. */
  graphopt.precisionClass = function precisionClass(precision) {
    if (!precision) return "";
    if (precision === "mixed") return "p-mixed";
    if (/^u?int[1-7]\b|4/.test(precision) && !/float/.test(precision)) return "p-int4";
    if (/^u?int/.test(precision)) return "p-int8";
    if (/16/.test(precision)) return "p-half";
    return "p-float";
  };

  /**
   * @param {HTMLElement} container whose computed colours are read
   * @returns {object[]} Cytoscape's style sheet
   */
  graphopt.graphStyle = function graphStyle(container) {
    const c = palette(container);
    const node = (selector, style) => ({ selector, style });
    const far = (kind, colour) =>
      node(`node.far${kind}`, {
        "background-color": colour,
        "border-color": colour,
        "border-width": 4,
        "border-style": "solid",
      });
    const tinted = (colour, share = 0.16) => ({
      "background-color": mix(c.bg, colour, share),
      "border-color": rgb(colour),
    });
    return [
      node("node", {
        shape: "round-rectangle",
        width: "data(width)",
        height: "data(height)",
        label: "data(label)",
        "font-size": FONT,
        "font-family": FAMILY,
        "text-wrap": "wrap",
        "text-valign": "center",
        "text-halign": "center",
        "line-height": 1.2,
        color: rgb(c.fg),
        "background-color": rgb(c.panel),
        "border-width": 1,
        "border-color": mix(c.line, c.muted, 0.5),
        "min-zoomed-font-size": 5,
        "overlay-opacity": 0,
      }),
      node(".input, .output", { shape: "cut-rectangle", "background-color": rgb(c.bg), "border-color": rgb(c.muted) }),
      node(".constant", { "border-style": "dotted", "background-color": rgb(c.bg), "border-color": rgb(c.muted) }),
      node(".group", {
        "border-style": "double",
        "border-width": 3,
        "background-color": rgb(c.bg),
        color: rgb(c.muted),
      }),
      node(".pair", { "border-width": 1.5 }),
      node(".by-change.added", { ...tinted(c.good), "border-width": 2.5 }),
      node(".by-change.changed", { ...tinted(c.warn), "border-width": 2.5, "border-style": "dotted" }),
      node(".by-change.changed.group", { "border-style": "double", "border-width": 4 }),
      node(".removed", { ...tinted(c.bad, 0.06), "border-width": 2, "border-style": "dashed", color: rgb(c.bad) }),
      node(".p-int8", tinted(c.good, 0.2)),
      node(".p-int4", { ...tinted(c.good, 0.4), "border-width": 3 }),
      node(".p-half", tinted(c.accent, 0.2)),
      node(".p-float", { ...tinted(c.muted, 0.22), "border-width": 2 }),
      node(".p-mixed", { ...tinted(c.warn, 0.12), "border-style": "double" }),
      node("edge", {
        width: 1.2,
        "line-color": mix(c.line, c.muted, 0.5),
        "target-arrow-color": mix(c.line, c.muted, 0.5),
        "target-arrow-shape": "triangle",
        "arrow-scale": 0.7,
        "curve-style": "straight",
        "source-endpoint": "0 50%",
        "target-endpoint": "0 -50%",
        "overlay-opacity": 0,
        label: "data(label)",
        "font-size": 10,
        "source-text-offset": 16,
        "font-family": FAMILY,
        color: rgb(c.muted),
        "min-zoomed-font-size": 6,
        "text-background-color": rgb(c.bg),
        "text-background-opacity": 0.85,
        "text-background-padding": 1,
      }),
      node("edge.bent", {
        label: "",
        "source-label": "data(label)",
        "curve-style": "segments",
        "edge-distances": "endpoints",
        "segment-weights": "data(weights)",
        "segment-distances": "data(distances)",
      }),
      node("edge.quantized", {
        "line-color": rgb(c.accent),
        "target-arrow-color": rgb(c.accent),
        color: rgb(c.accent),
      }),
      node("edge.added", { width: 2, "line-color": rgb(c.good), "target-arrow-color": rgb(c.good) }),
      node("edge.removed", {
        width: 1.5,
        "line-style": "dashed",
        "line-color": rgb(c.bad),
        "target-arrow-color": rgb(c.bad),
      }),
      // From afar there is nothing to read, and outlines are too thin to see.
      far("", mix(c.line, c.muted, 0.35)),
      far(".by-change.added", rgb(c.good)),
      far(".by-change.changed", rgb(c.warn)),
      far(".removed", rgb(c.bad)),
      far(".p-int8", rgb(c.good)),
      far(".p-int4", mix(c.good, c.fg, 0.4)),
      far(".p-half", rgb(c.accent)),
      far(".p-float", rgb(c.muted)),
      far(".p-mixed", rgb(c.warn)),
      node("edge.far", { width: 5 }),
      node("node.selected", { "outline-width": 4, "outline-color": rgb(c.accent), "outline-offset": 2, "z-index": 9 }),
      node("node.far.selected", { "outline-width": 24 }),
      node("edge.selected", { width: 3.5, "line-color": rgb(c.accent), "target-arrow-color": rgb(c.accent) }),
    ];
  };
})();
