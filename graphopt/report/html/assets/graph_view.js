/** The graph view: a canvas, a toolbar and a panel in a container of the page. */
(function () {
  "use strict";
  const graphopt = (globalThis.graphopt = globalThis.graphopt || {});
  const LARGEST_ZOOM = 1.2;
  const READABLE_ZOOM = 0.45;
  const LABELLED_EDGES = 400;
  const LONGEST_SHAPE = 24;

  class View {
    constructor(container, graph, { onSelect } = {}) {
      const { el } = graphopt;
      this.container = container;
      this.model = new graphopt.GraphModel(graph);
      this.layouts = new graphopt.Layouts();
      this.onSelect = onSelect || (() => {});
      this.options = { fold: true, collapse: null, scopes: false, constants: false, byPrecision: false };
      this.opened = new Set();
      this.step = 0;
      this.drawn = null;
      this.selected = null;
      this.turn = 0;
      this.canvas = el("div", { class: "gv-canvas", tabindex: "0", role: "img" });
      this.busy = el("div", { class: "gv-busy", role: "status", hidden: true }, "laying out …");
      this.legend = el("div", { class: "gv-legend", "aria-label": "Legend" });
      this.toolbar = graphopt.graphToolbar(this.model, this.options, {
        show: (step) => this.showStep(step),
        find: (text) => this.model.search(text, this.step),
        go: (name) => this.select(name, { zoom: true }).then(() => this.canvas.focus({ preventScroll: true })),
        fit: () => this.fit(),
        zoom: (factor) => this.zoom(factor),
        set: (name, value) => this.set(name, value),
        close: () => (this.opened.clear(), this.draw({ stay: true })),
      });
      this.panel = new graphopt.GraphPanel(this.model, {
        select: (name, step) => this.select(name, { zoom: true, step }),
        show: (step) => this.showStep(step),
        highlight: (places) => this.highlight(places),
        open: (id) => this.open(id),
      });
      const stage = el("div", { class: "gv-stage" }, this.canvas, this.busy, this.legend);
      this.root = el("div", { class: "gv" }, this.toolbar.bar, el("div", { class: "gv-body" }, stage, this.panel.root));
      container.replaceChildren(this.root);
      this.root.addEventListener("keydown", (event) => this.key(event));
      const large = graph.nodes.length > 2500;
      this.cy = globalThis.cytoscape({
        container: this.canvas, style: graphopt.graphStyle(this.root), layout: { name: "preset" }, autoungrabify: true,
        boxSelectionEnabled: false, selectionType: "single", autounselectify: true, minZoom: 0.01, maxZoom: 3,
        hideEdgesOnViewport: large, textureOnViewport: large,
      });
      this.cy.on("tap", "node", ({ target }) => this.tapNode(target.id()));
      this.cy.on("tap", "edge", ({ target }) => this.selectEdge(target.data("edge")));
      // Behind Cytoscape's own listener, which takes the focus from everything when a button goes down.
      this.canvas.addEventListener("click", () => this.canvas.focus({ preventScroll: true }));
      this.cy.on("tap", ({ target }) => target === this.cy && this.deselect());
      const first = this.model.steps.findIndex((_, k) => k > 0 && this.model.hasChanges(k));
      this.step = this.model.steps.length === 2 && first === 1 ? 1 : 0;
      this.ready = this.draw({});
      // The wheel scrolls the page until the graph is clicked. The root hears of it before Cytoscape does.
      this.root.addEventListener("wheel", (event) => {
        const inside = document.activeElement === this.canvas || document.fullscreenElement !== null;
        this.cy.userZoomingEnabled(inside || event.ctrlKey);
      }, { capture: true, passive: true });
      new ResizeObserver(() => this.cy.resize()).observe(this.canvas);
    }

    /** The visible graph of a step with the current options. */
    visible(step) {
      const all = graphopt.visibleStep(this.model, step, this.options);
      return graphopt.groupVisible(all, { ...this.options, opened: this.opened });
    }

    /**
     * Lays out and draws the current step. Then moves to `focus` (ids), or keeps in place what `anchor` (an id) shows,
     * or stays, or goes to what the step changed.
     */
    async draw({ focus, anchor, stay }) {
      const turn = ++this.turn;
      const before = this.cy.nodes().nonempty() && anchor ? this.screenOf(anchor) : null;
      const visible = this.visible(this.step);
      const nodes = [...visible.nodes.values()];
      const labels = nodes.map((node) => graphopt.labelled(node, this.options.byPrecision, this.badges(node)));
      const places = new Map(nodes.map((node, k) => [node.id, k]));
      const request = {
        widths: labels.map((label) => label.width),
        heights: labels.map((label) => label.height),
        light: nodes.map((node) => node.kind === "ghost"),
        inputs: nodes.map((node) => node.kind === "input"),
        sources: visible.edges.map((edge) => places.get(edge.source)),
        targets: visible.edges.map((edge) => places.get(edge.target)),
      };
      const key = JSON.stringify([this.step, this.options, [...this.opened].sort()]);
      this.busy.hidden = false;
      const layout = await this.layouts.get(key, request);
      if (turn !== this.turn) return;
      this.drawn = { visible, layout, labels };
      this.put();
      this.busy.hidden = true;
      this.toolbar.update(this.step, visible.collapsed, this.opened.size, this.options.byPrecision);
      this.legend.replaceChildren(...graphopt.graphLegend(visible, this.options.byPrecision));
      const step = this.model.steps[this.step];
      const what = `${step.title}: ${nodes.length} nodes drawn of ${this.model.at(this.step).places.length}`;
      this.canvas.setAttribute("aria-label", `Graph. ${what}. The panel beside it has the same as text.`);
      this.showSelected();
      if (focus && focus.length) this.frame(focus);
      else if (before && this.cy.getElementById(anchor).nonempty()) this.hold(anchor, before);
      else if (!stay) this.frameStep();
    }

    /** Badges are facts about the result, and are drawn on it. */
    badges(node) {
      const result = this.step === this.model.steps.length - 1 || this.options.byPrecision;
      return result && node.places.length === 1 ? this.model.graph.nodes[node.places[0]].badges : [];
    }

    /** Gives Cytoscape the nodes and edges that are to be drawn. */
    put() {
      const { visible, layout, labels } = this.drawn;
      const items = [];
      let k = 0;
      for (const node of visible.nodes.values()) {
        const colour = this.options.byPrecision ? graphopt.precisionClass(node.precision) : "by-change";
        const classes = [node.kind, node.change, node.kind === "ghost" ? "" : colour].filter(Boolean);
        items.push({ group: "nodes", data: { id: node.id, ...labels[k] }, position: { x: layout.x[k], y: layout.y[k] }, classes });
        k++;
      }
      const place = new Map([...visible.nodes.keys()].map((id, index) => [id, index]));
      const named = edgesWithLabels(visible, layout);
      visible.edges.forEach((edge, index) => {
        const ends = [place.get(edge.source), place.get(edge.target)];
        const bent = segments(layout, labels, ends, layout.bends[index]);
        const quantized = edge.via.length > 0;
        const label = named.has(index) || quantized ? shape(edge, quantized) : "";
        const classes = [bent ? "bent" : "", quantized ? "quantized" : "", edge.change].filter(Boolean);
        const data = { id: `e:${index}`, source: edge.source, target: edge.target, edge: index, label, ...bent };
        items.push({ group: "edges", data, classes });
      });
      this.cy.batch(() => {
        this.cy.elements().remove();
        this.cy.add(items);
      });
    }

    /** Where a node's centre is in the window, for `hold`. */
    screenOf(id) {
      const node = this.cy.getElementById(id);
      return node.nonempty() ? node.renderedPosition() : null;
    }

    hold(id, before) {
      const now = this.screenOf(id);
      this.cy.panBy({ x: before.x - now.x, y: before.y - now.y });
    }

    /** Moves to what the step changed, or to the start of the graph, at a size at which one can read. */
    frameStep() {
      if (this.selected && this.selected.name && this.drawn.visible.where.has(this.selected.name)) {
        this.frame([this.drawn.visible.where.get(this.selected.name)]);
        return;
      }
      const { visible } = this.drawn;
      const changed = [...visible.nodes.values()].filter((node) => node.change).map((node) => node.id);
      this.frame(changed.length ? changed : [...visible.nodes.keys()]);
    }

    /** Zooms to nodes; where that would be too small to read, to the topmost of them. */
    frame(ids) {
      const chosen = this.cy.collection(ids.map((id) => this.cy.getElementById(id)).filter((each) => each.nonempty()));
      if (chosen.empty()) return;
      this.cy.fit(chosen, 60);
      if (this.cy.zoom() > LARGEST_ZOOM) this.cy.zoom(LARGEST_ZOOM), this.cy.center(chosen);
      if (this.cy.zoom() >= READABLE_ZOOM) return;
      this.cy.zoom(0.8);
      const top = chosen.nodes().min((node) => node.position("y")).ele;
      this.cy.center(top);
      if (chosen.length > 1) this.cy.panBy({ x: 0, y: 80 - top.renderedPosition("y") });
    }

    showStep(step) {
      if (!(step in this.model.steps)) return Promise.resolve();
      this.step = step;
      if (this.selected && (!this.selected.name || this.model.placeAt(this.selected.name, step) === undefined)) {
        this.selected = null;
      }
      return this.draw({});
    }

    /** Selects a node; goes to the last step that has it when the current one hasn't, or to `step`. */
    async select(name, { zoom = true, step } = {}) {
      const wanted = step !== undefined && this.model.placeAt(name, step) !== undefined ? step : this.model.stepWith(name, this.step);
      if (wanted < 0) return false;
      this.step = wanted;
      this.selected = { name };
      const id = this.reveal(name);
      await this.draw({ focus: zoom && id ? [id] : undefined, stay: true });
      this.onSelect(name, wanted);
      return true;
    }

    /** Opens the groups that a node is in. The id that it is drawn as. */
    reveal(name) {
      const place = this.model.placeAt(name, this.step);
      for (;;) {
        const { nodes, where } = this.visible(this.step);
        const element = nodes.get(where.get(name));
        if (!element || !element.members.length || element.places.includes(place) || this.opened.has(element.id)) {
          return element ? element.id : null;
        }
        this.opened.add(element.id);
      }
    }

    tapNode(id) {
      const element = this.drawn.visible.nodes.get(id);
      if (element.kind === "group") this.open(id);
      else if (element.places.length) this.choose(this.model.graph.nodes[element.places[0]].name);
      else this.pick({ terminal: id });
    }

    /** Draws what is inside a group or a node, with its start, or the node, where the group was. */
    open(id) {
      const inside = this.drawn.visible.nodes.get(id).members.find((member) => member.places.length);
      const before = this.screenOf(id);
      this.opened.add(id);
      this.draw({ stay: true }).then(() => {
        const { nodes, where } = this.drawn.visible;
        const start = nodes.has(id) ? id : where.get(this.model.graph.nodes[inside.places[0]].name);
        this.hold(start, before);
        const { x, y } = this.screenOf(start);
        if (x < 0 || y < 0 || x > this.cy.width() || y > this.cy.height()) this.frame([start]);
      });
    }

    /** Selects what is drawn already, without moving. */
    choose(name) {
      this.pick({ name });
      this.onSelect(name, this.step);
    }

    selectEdge(index) {
      this.pick({ edge: this.drawn.visible.edges[index], index });
    }

    pick(what) {
      this.selected = what;
      this.showSelected();
    }

    deselect() {
      this.pick(null);
    }

    /** Marks places of the step, and goes there. */
    highlight(places) {
      const { where } = this.drawn.visible;
      const ids = new Set(places.map((place) => this.idOf(place, where)).filter(Boolean));
      this.cy.elements(".selected").removeClass("selected");
      for (const id of ids) this.cy.getElementById(id).addClass("selected");
      this.frame([...ids]);
    }

    idOf(place, where) {
      const { name } = this.model.graph.nodes[place];
      const ghost = "g:" + name;
      return this.model.removedBy.get(place) === this.step && this.drawn.visible.nodes.has(ghost) ? ghost : where.get(name);
    }

    /** Marks what is selected and fills the panel. */
    showSelected() {
      this.cy.elements(".selected").removeClass("selected");
      const { visible } = this.drawn;
      const chosen = this.selected;
      if (chosen && chosen.name !== undefined) {
        const place = this.model.placeAt(chosen.name, this.step);
        const element = visible.nodes.get(this.idOf(place, visible.where));
        const edge = visible.edges.findIndex((each) => each.via.includes(place));
        if (element) this.cy.getElementById(edge < 0 ? element.id : `e:${edge}`).addClass("selected");
        this.panel.showNode(place, this.step, element);
      } else if (chosen && chosen.terminal !== undefined && visible.nodes.has(chosen.terminal)) {
        this.cy.getElementById(chosen.terminal).addClass("selected");
        this.panel.showTerminal(visible.nodes.get(chosen.terminal), this.step);
      } else if (chosen && chosen.edge !== undefined) {
        this.cy.getElementById(`e:${chosen.index}`).addClass("selected");
        this.panel.showEdge(chosen.edge, this.step);
      } else {
        this.selected = null;
        this.panel.showStep(this.step);
      }
    }

    set(name, value) {
      this.options[name] = value;
      if (this.selected && this.selected.name === undefined) this.selected = null;
      const anchor = this.selected ? this.drawn.visible.where.get(this.selected.name) : undefined;
      this.draw({ anchor });
    }

    fit() {
      this.cy.fit(undefined, 20);
      if (this.cy.zoom() > LARGEST_ZOOM) this.cy.zoom(LARGEST_ZOOM), this.cy.center();
    }

    zoom(factor) {
      const middle = { x: this.canvas.clientWidth / 2, y: this.canvas.clientHeight / 2 };
      this.cy.zoom({ level: this.cy.zoom() * factor, renderedPosition: middle });
    }

    key(event) {
      if (event.target.matches("input[type=search], select") || event.ctrlKey || event.metaKey || event.altKey) return;
      const act = {
        ArrowLeft: () => this.toolbar.move(-1),
        ArrowRight: () => this.toolbar.move(1),
        "/": () => this.toolbar.focusSearch(),
        f: () => this.fit(),
        "+": () => this.zoom(1.4),
        "-": () => this.zoom(1 / 1.4),
        Escape: () => this.deselect(),
      }[event.key];
      if (!act) return;
      event.preventDefault();
      act();
    }
  }

  /** Places of the edges that carry their tensor's shape: one for each tensor, the straightest. None in large graphs. */
  function edgesWithLabels(visible, layout) {
    const best = new Map();
    if (visible.nodes.size > LABELLED_EDGES) return new Set();
    visible.edges.forEach((edge, index) => {
      const key = `${edge.source}\n${edge.type}`;
      const known = best.get(key);
      if (known === undefined || layout.bends[index].length < layout.bends[known].length) best.set(key, index);
    });
    return new Set(best.values());
  }

  /** "1×64×56×56" of the tensor, or the type that a pair gives it. */
  function shape(edge, quantized) {
    if (quantized) return edge.type;
    const inner = /\[(.*)\]/.exec(edge.type);
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

  /**
   * A graph view in `container`, whose content it replaces. It is as high as the container.
   * @param {HTMLElement} container
   * @param {object} graph a `GraphSteps`, as in payload.py
   * @param {{onSelect?: function(string, number): void}} [callbacks]
   * @returns {{showStep, select, search, fit, setTheme, ready, step, view}}
   */
  graphopt.GraphView = function GraphView(container, graph, callbacks) {
    const view = new View(container, graph, callbacks);
    return {
      /** @param {number} step a place in `graph.steps` @returns {Promise<void>} */
      showStep: (step) => view.showStep(step),
      /** @returns {boolean} whether any step has a node of this name; the drawing follows */
      select(name, options = {}) {
        const known = view.model.versions.has(name);
        if (known) view.select(name, options);
        return known;
      },
      /** @param {string} text @returns {string[]} names of nodes, best first */
      search: (text) => view.model.search(text, view.step),
      fit: () => view.fit(),
      /** Takes the page's colours again. */
      setTheme: () => view.cy.style(graphopt.graphStyle(view.root)),
      ready: view.ready,
      step: () => view.step,
      view,
    };
  };
})();
