/** The drawing: Cytoscape with the nodes and edges of a laid out graph, and the ways to move over it. */
(function () {
  "use strict";
  const graphopt = (globalThis.graphopt = globalThis.graphopt || {});
  const LARGEST_ZOOM = 1.2;
  const READABLE_ZOOM = 0.45;
  const FAR_ZOOM = 0.2;
  const MANY_NODES = 2500;
  const LABELLED_EDGES = 400;
  const LONGEST_SHAPE = 24;

  graphopt.GraphCanvas = class GraphCanvas {
    /**
     * @param {HTMLElement} element where to draw
     * @param {HTMLElement} root what hears of the wheel before `element` does
     * @param {number} size nodes of the graph
     * @param {object} owner {node(id), edge(place), nothing()}: what was clicked
     */
    constructor(element, root, size, owner) {
      this.element = element;
      this.root = root;
      const large = size > MANY_NODES;
      this.cy = globalThis.cytoscape({
        container: element,
        style: graphopt.graphStyle(root),
        layout: { name: "preset" },
        autoungrabify: true,
        autounselectify: true,
        boxSelectionEnabled: false,
        minZoom: 0.01,
        maxZoom: 3,
        hideEdgesOnViewport: large,
        textureOnViewport: large,
      });
      this.far = false;
      this.cy.on("zoom", () => this.distance());
      this.cy.on("tap", "node", ({ target }) => owner.node(target.id()));
      this.cy.on("tap", "edge", ({ target }) => owner.edge(target.data("place")));
      this.cy.on("tap", ({ target }) => target === this.cy && owner.nothing());
      // Behind Cytoscape's own listener, which takes the focus from everything when a button goes down.
      element.addEventListener("click", () => element.focus({ preventScroll: true }));
      // The wheel scrolls the page until the graph is clicked.
      const wheel = (event) => {
        const inside = document.activeElement === element || document.fullscreenElement !== null;
        this.cy.userZoomingEnabled(inside || event.ctrlKey);
      };
      root.addEventListener("wheel", wheel, { capture: true, passive: true });
      new ResizeObserver(() => this.cy.resize()).observe(element);
    }

    /**
     * Draws a graph in place of the last one, without moving.
     * @param {{nodes: Map<string, object>, edges: object[]}} visible
     * @param {{x: number[], y: number[], bends: number[][]}} layout
     * @param {{label: string, width: number, height: number}[]} labels of the nodes
     * @param {boolean} byPrecision
     */
    draw(visible, layout, labels, byPrecision) {
      const items = [];
      const places = new Map();
      for (const [id, node] of visible.nodes) {
        const k = places.size;
        places.set(id, k);
        const colour = byPrecision ? graphopt.precisionClass(node.precision) : "by-change";
        const classes = [node.kind, node.change, node.kind === "ghost" ? "" : colour].filter(Boolean);
        items.push({
          group: "nodes",
          data: { id, ...labels[k] },
          position: { x: layout.x[k], y: layout.y[k] },
          classes,
        });
      }
      const named = edgesWithLabels(visible, layout);
      visible.edges.forEach((edge, place) => {
        const ends = [places.get(edge.source), places.get(edge.target)];
        const bent = segments(layout, labels, ends, layout.bends[place]);
        const quantized = edge.via.length > 0;
        const label = quantized ? edge.type : named.has(place) ? shape(edge.type) : "";
        const classes = [bent ? "bent" : "", quantized ? "quantized" : "", edge.change].filter(Boolean);
        const data = { id: `e:${place}`, source: edge.source, target: edge.target, place, label, ...bent };
        items.push({ group: "edges", data, classes });
      });
      this.cy.batch(() => {
        this.cy.elements().remove();
        this.cy.add(items);
        if (this.far) this.cy.elements().addClass("far");
      });
    }

    /** From afar, nodes are filled with their colour. */
    distance() {
      const far = this.cy.zoom() < FAR_ZOOM;
      if (far === this.far) return;
      this.far = far;
      this.cy.batch(() => this.cy.elements().toggleClass("far", far));
    }

    has(id) {
      return this.cy.getElementById(id).nonempty();
    }

    /** Marks these nodes and edges (`e:` and the place of the edge), and no others. */
    mark(ids) {
      this.cy.elements(".selected").removeClass("selected");
      for (const id of ids) this.cy.getElementById(id).addClass("selected");
    }

    /** Where a node's centre is on the canvas, in pixels; null where it isn't drawn. */
    screenOf(id) {
      return this.has(id) ? { ...this.cy.getElementById(id).renderedPosition() } : null;
    }

    /** Moves so that a node is at `point` of the canvas; to the node, if that is outside. */
    hold(id, point) {
      const now = this.screenOf(id);
      const inside = point.x > 0 && point.y > 0 && point.x < this.cy.width() && point.y < this.cy.height();
      if (inside) this.cy.panBy({ x: point.x - now.x, y: point.y - now.y });
      else this.frame([id]);
    }

    /** Zooms to nodes; where that would be too small to read, to the topmost of them. */
    frame(ids) {
      const chosen = this.cy.collection(ids.filter((id) => this.has(id)).map((id) => this.cy.getElementById(id)));
      if (chosen.empty()) return;
      this.cy.fit(chosen, 60);
      if (this.cy.zoom() > LARGEST_ZOOM) (this.cy.zoom(LARGEST_ZOOM), this.cy.center(chosen));
      if (this.cy.zoom() >= READABLE_ZOOM) return;
      this.cy.zoom(0.8);
      const top = chosen.nodes().min((node) => node.position("y")).ele;
      this.cy.center(top);
      this.cy.panBy({ x: 0, y: 80 - top.renderedPosition("y") });
    }

    fit() {
      this.cy.fit(undefined, 20);
      if (this.cy.zoom() > LARGEST_ZOOM) (this.cy.zoom(LARGEST_ZOOM), this.cy.center());
    }

    zoom(factor) {
      const middle = { x: this.cy.width() / 2, y: this.cy.height() / 2 };
      this.cy.zoom({ level: this.cy.zoom() * factor, renderedPosition: middle });
    }

    /** Takes the page's colours again. */
    recolour() {
      this.cy.style(graphopt.graphStyle(this.root));
    }
  };

  /** Places of the edges that carry their tensor's shape: the straightest of each tensor. None in large graphs. */
  function edgesWithLabels(visible, layout) {
    const best = new Map();
    if (visible.nodes.size > LABELLED_EDGES) return new Set();
    visible.edges.forEach((edge, place) => {
      const key = `${edge.source}\n${edge.type}`;
      const known = best.get(key);
      if (known === undefined || layout.bends[place].length < layout.bends[known].length) best.set(key, place);
    });
    return new Set(best.values());
  }

  /** "1×64×56×56" of a type; "" where the shape isn't known or is too long to draw. */
  function shape(type) {
    const inner = /\[(.*)\]/.exec(type);
    const text = inner ? inner[1].replaceAll(",", "×") : "";
    return text.length > LONGEST_SHAPE || text === "..." ? "" : text;
  }

  /** Bends as Cytoscape wants them: shares of the line between the ends, and distances from it. */
  function segments(layout, labels, [source, target], bends) {
    if (!bends.length) return null;
    const from = [layout.x[source], layout.y[source] + labels[source].height / 2];
    const line = [layout.x[target] - from[0], layout.y[target] - labels[target].height / 2 - from[1]];
    const length = Math.hypot(...line) || 1;
    const weights = [];
    const distances = [];
    for (let k = 0; k < bends.length; k += 2) {
      const [dx, dy] = [bends[k] - from[0], bends[k + 1] - from[1]];
      weights.push((dx * line[0] + dy * line[1]) / (length * length));
      distances.push((dy * line[0] - dx * line[1]) / length);
    }
    return { weights, distances };
  }
})();
