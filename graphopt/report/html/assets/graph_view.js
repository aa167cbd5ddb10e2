/** The graph view: a drawing, a toolbar and a panel in a container of the page. */
(function () {
  "use strict";
  const graphopt = (globalThis.graphopt = globalThis.graphopt || {});

  class View {
    constructor(container, graph, { onSelect } = {}) {
      const { el } = graphopt;
      this.model = new graphopt.GraphModel(graph);
      this.layouts = new graphopt.Layouts();
      this.onSelect = onSelect || (() => {});
      this.options = { fold: true, collapse: null, scopes: false, constants: false, byPrecision: false };
      /** Ids of the groups that the user has opened. */
      this.opened = new Set();
      /** What is drawn: {step, visible}. Behind `step` while a layout is being made. */
      this.drawn = null;
      /** {name}, {terminal: id}, {edge, id} or null. */
      this.selected = null;
      this.turn = 0;
      // A difference of two models has two steps, and what differs is in the second.
      this.step = graph.steps.length === 2 ? 1 : 0;
      this.element = el("div", {
        class: "gv-canvas",
        tabindex: "0",
        role: "application",
        "aria-roledescription": "graph",
      });
      this.busy = el("div", { class: "gv-busy", role: "status", hidden: true }, "laying out …");
      this.legend = el("div", { class: "gv-legend", "aria-label": "Legend" });
      this.toolbar = graphopt.graphToolbar(this.model, this.options, {
        show: (step) => this.showStep(step),
        find: (text) => this.model.search(text, this.step),
        go: (name) => this.select(name).then(() => this.element.focus({ preventScroll: true })),
        fit: () => this.canvas.fit(),
        zoom: (factor) => this.canvas.zoom(factor),
        set: (name, value) => this.set(name, value),
        close: () => (this.opened.clear(), this.draw()),
      });
      this.panel = new graphopt.GraphPanel(this.model, {
        select: (name, step) => this.select(name, { step }),
        show: (step) => this.showStep(step),
        highlight: (places) => this.highlight(places),
        open: (id) => this.open(id),
      });
      const stage = el("div", { class: "gv-stage" }, this.element, this.busy, this.legend);
      const root = el(
        "div",
        { class: "gv" },
        this.toolbar.bar,
        el("div", { class: "gv-body" }, stage, this.panel.root),
      );
      container.replaceChildren(root);
      root.addEventListener("keydown", (event) => this.key(event));
      this.canvas = new graphopt.GraphCanvas(this.element, root, graph.nodes.length, {
        node: (id) => this.tapped(id),
        edge: (place) => this.pick({ edge: this.drawn.visible.edges[place], id: `e:${place}` }),
        nothing: () => this.pick(null),
      });
      this.ready = this.draw();
    }

    /** The visible graph of the current step with the current options. */
    visible() {
      const all = graphopt.visibleStep(this.model, this.step, this.options);
      return graphopt.groupVisible(all, { ...this.options, opened: this.opened });
    }

    /**
     * Lays out and draws the current step. Then goes to what the step changed; with `focus` to that node; with `anchor`
     * it keeps that node where it is; with `stay` it doesn't move.
     */
    async draw({ focus, anchor, stay } = {}) {
      const turn = ++this.turn;
      const visible = this.visible();
      const nodes = [...visible.nodes.values()];
      const labels = nodes.map((node) => graphopt.labelled(node, this.options.byPrecision, this.badges(node)));
      const places = new Map(nodes.map((node, k) => [node.id, k]));
      const key = JSON.stringify([this.step, this.options, [...this.opened].sort()]);
      this.busy.hidden = false;
      const layout = await this.layouts.get(key, {
        widths: labels.map((label) => label.width),
        heights: labels.map((label) => label.height),
        light: nodes.map((node) => node.kind === "ghost"),
        inputs: nodes.map((node) => node.kind === "input"),
        sources: visible.edges.map((edge) => places.get(edge.source)),
        targets: visible.edges.map((edge) => places.get(edge.target)),
      });
      if (turn !== this.turn) return;
      const before = anchor === undefined ? null : this.canvas.screenOf(anchor);
      this.drawn = { step: this.step, visible };
      this.canvas.draw(visible, layout, labels, this.options.byPrecision);
      this.busy.hidden = true;
      this.describe(visible);
      this.showSelected();
      if (focus) this.canvas.frame([focus]);
      else if (before && this.canvas.has(anchor)) this.canvas.hold(anchor, before);
      else if (!stay) this.frameStep();
    }

    /** Brings the toolbar, the legend and the canvas's description up to what is drawn. */
    describe(visible) {
      const { byPrecision } = this.options;
      this.toolbar.update(this.step, visible.collapsed, this.opened.size, byPrecision);
      this.legend.replaceChildren(...graphopt.graphLegend(visible, byPrecision));
      const what = `${this.model.steps[this.step].title}: ${visible.nodes.size} drawn nodes`;
      this.element.setAttribute("aria-label", `Graph of ${what}. The panel beside it says the same as text.`);
    }

    /** Badges are facts about the result, and are drawn on it. */
    badges(node) {
      const result = this.step === this.model.steps.length - 1 || this.options.byPrecision;
      return result && node.places.length === 1 ? this.model.graph.nodes[node.places[0]].badges : [];
    }

    /** Goes to what is selected, or what the step changed, or the start of the graph. */
    frameStep() {
      const { nodes, where } = this.drawn.visible;
      const selected = this.selected && where.get(this.selected.name);
      const changed = [...nodes.values()].filter((node) => node.change).map((node) => node.id);
      if (selected) this.canvas.frame([selected]);
      else this.canvas.frame(changed.length ? changed : [...nodes.keys()]);
    }

    showStep(step) {
      if (!(step in this.model.steps)) return Promise.resolve();
      this.step = step;
      const there = this.selected && this.model.placeAt(this.selected.name, step) !== undefined;
      if (!there) this.selected = null;
      return this.draw();
    }

    /** Selects a node at `step`, or where that hasn't got it at the current one, or at the last one that has. */
    async select(name, { zoom = true, step } = {}) {
      const there = step !== undefined && this.model.placeAt(name, step) !== undefined;
      const wanted = there ? step : this.model.stepWith(name, this.step);
      if (wanted < 0) return;
      this.step = wanted;
      this.selected = { name };
      const id = this.reveal(name);
      await this.draw({ focus: zoom ? id : undefined, stay: true });
      this.onSelect(name, wanted);
    }

    /** Opens the groups that a node is in. The id of what it is drawn as. */
    reveal(name) {
      const place = this.model.placeAt(name, this.step);
      for (;;) {
        const { nodes, where } = this.visible();
        const element = nodes.get(where.get(name));
        if (!element) return undefined;
        if (!element.members.length || element.places.includes(place) || this.opened.has(element.id)) return element.id;
        this.opened.add(element.id);
      }
    }

    tapped(id) {
      const element = this.drawn.visible.nodes.get(id);
      if (element.kind === "group") this.open(id);
      else if (!element.places.length) this.pick({ terminal: id });
      else {
        const { name } = this.model.graph.nodes[element.places[0]];
        this.pick({ name });
        this.onSelect(name, this.step);
      }
    }

    /** Draws what is inside a group or a node, with its start, or the node, where the group was. */
    open(id) {
      const inside = this.drawn.visible.nodes.get(id).members.find((member) => member.places.length);
      const before = this.canvas.screenOf(id);
      this.opened.add(id);
      this.draw({ stay: true }).then(() => {
        const start = this.canvas.has(id) ? id : this.idOf(inside.places[0]);
        if (this.canvas.has(start)) this.canvas.hold(start, before);
      });
    }

    /** Selects something of what is drawn, without moving; nothing while another step is being laid out. */
    pick(what) {
      if (this.drawn.step !== this.step) return;
      this.selected = what;
      this.showSelected();
    }

    /** Marks places of the step, and goes there. */
    highlight(places) {
      const ids = [...new Set(places.map((place) => this.idOf(place)).filter(Boolean))];
      this.canvas.mark(ids);
      this.canvas.frame(ids);
    }

    /** The id of what a place is drawn as. */
    idOf(place) {
      const { nodes, where } = this.drawn.visible;
      const { name } = this.model.graph.nodes[place];
      const ghost = this.model.removedBy.get(place) === this.step && nodes.has("g:" + name);
      return ghost ? "g:" + name : where.get(name);
    }

    /** Marks what is selected and fills the panel. */
    showSelected() {
      const { nodes, edges } = this.drawn.visible;
      const chosen = this.selected || {};
      if (chosen.name !== undefined) {
        const place = this.model.placeAt(chosen.name, this.step);
        const id = this.idOf(place);
        const edge = edges.findIndex((each) => each.via.includes(place));
        this.canvas.mark(edge >= 0 ? [`e:${edge}`] : id ? [id] : []);
        this.panel.showNode(place, this.step, nodes.get(id));
      } else if (nodes.has(chosen.terminal)) {
        this.canvas.mark([chosen.terminal]);
        this.panel.showTerminal(nodes.get(chosen.terminal), this.step);
      } else if (chosen.edge !== undefined) {
        this.canvas.mark([chosen.id]);
        this.panel.showEdge(chosen.edge, this.step);
      } else {
        this.selected = null;
        this.canvas.mark([]);
        this.panel.showStep(this.step);
      }
    }

    /** Changes an option: fold, collapse, scopes, constants or byPrecision. */
    set(name, value) {
      this.options[name] = value;
      if (this.selected && this.selected.name === undefined) this.selected = null;
      this.draw({ anchor: this.selected ? this.drawn.visible.where.get(this.selected.name) : undefined });
    }

    key(event) {
      if (event.target.matches("input[type=search], select") || event.ctrlKey || event.metaKey || event.altKey) return;
      const act = {
        ArrowLeft: () => this.toolbar.move(-1),
        ArrowRight: () => this.toolbar.move(1),
        "/": () => this.toolbar.focusSearch(),
        f: () => this.canvas.fit(),
        "+": () => this.canvas.zoom(1.4),
        "-": () => this.canvas.zoom(1 / 1.4),
        Escape: () => this.pick(null),
      }[event.key];
      if (!act) return;
      event.preventDefault();
      act();
    }
  }

  /**
   * A graph view in `container`, whose content it replaces. It is as high as the container.
   * @param {HTMLElement} container in the document
   * @param {object} graph a `GraphSteps`, as in payload.py
   * @param {{onSelect?: function(string, number): void}} [callbacks]
   * @returns {{showStep, select, search, fit, setTheme, ready: Promise<void>, step}}
   */
  graphopt.GraphView = function GraphView(container, graph, callbacks) {
    const view = new View(container, graph, callbacks);
    return {
      /** @param {number} step a place in `graph.steps` @returns {Promise<void>} */
      showStep: (step) => view.showStep(step),
      /**
       * @param {string} name
       * @param {{zoom?: boolean, step?: number}} [options]
       * @returns {boolean} whether any step has a node of this name; the drawing follows
       */
      select(name, options = {}) {
        const known = view.model.versions.has(name);
        if (known) view.select(name, options);
        return known;
      },
      /** @param {string} text @returns {string[]} names of nodes, best first */
      search: (text) => view.model.search(text, view.step),
      fit: () => view.canvas.fit(),
      /** Takes the page's colours, whichever theme it has. */
      setTheme: () => view.canvas.recolour(),
      ready: view.ready,
      step: () => view.step,
      /** For tests and the browser's console. */
      view,
    };
  };
})();
