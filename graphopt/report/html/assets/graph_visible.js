/**
 * What of a step is drawn: its nodes and the ghosts of those that it removed, with pairs of QuantizeLinear and
 * DequantizeLinear folded into edges. `graph_groups.js` then puts what doesn't matter into groups.
 *
 * A visible graph is {nodes: Map id → node, edges: edge[], where: Map name → id}:
 *
 *     node  {id, kind, title, subtitle, change, places, precision, members, stored}
 *           kind: node, ghost, pair (a Q/DQ pair that the step touched), input, output, constant, group
 *           change: "", "added", "changed", "removed"
 *           stored: integer types of the constants that folded DequantizeLinears read
 *     edge  {source, target, tensor, type, via, change}
 *           via: places of the folded nodes that the tensor passes; type: of the tensor, or "uint8" behind a pair
 *
 * No drawing and no DOM.
 */
(function () {
  "use strict";
  const graphopt = (globalThis.graphopt = globalThis.graphopt || {});

  /** Builds the graph of one step, everything in it but what folding hides. */
  class Builder {
    constructor(model, step, options) {
      this.model = model;
      this.step = step;
      this.options = options;
      this.graph = model.graph;
      this.now = model.at(step);
      this.changes = options.byPrecision ? new Map() : model.changes(step);
      this.nodes = new Map();
      this.edges = [];
      this.where = new Map();
      /** Place of a folded QuantizeLinear → places of its DequantizeLinears; and of the latter → their tensor. */
      this.pairs = new Map();
      this.folded = new Map();
      /** Places of Constant nodes, which aren't drawn unless constants are, or the step touched them. */
      this.hidden = new Set();
    }

    build() {
      if (this.options.fold) this.fold();
      if (!this.options.constants) this.hideConstants();
      for (const place of this.now.places) this.addNode(place);
      for (const place of this.now.places) this.addInputs(place);
      this.addOutputs();
      this.addBodyEnds();
      if (this.step > 0 && !this.options.byPrecision) {
        this.addGhosts();
        this.markNewEdges();
      }
      return { nodes: this.nodes, edges: this.edges, where: this.where };
    }

    /** Finds the pairs: every reader of the Q is a DQ, and nothing in between is an output of the model. */
    fold() {
      const { model, now, graph } = this;
      const isOutput = (node) => node.outputs.some((tensor) => model.outputs.has(tensor));
      for (const place of now.places) {
        const node = graph.nodes[place];
        if (node.op === "QuantizeLinear" && !isOutput(node)) {
          const readers = now.readers.get(node.outputs[0]) || [];
          const all = readers.every((reader) => foldable(graph.nodes[reader], node.outputs[0]));
          if (readers.length && all && !readers.some((reader) => isOutput(graph.nodes[reader]))) {
            this.pairs.set(place, readers);
            for (const reader of [place, ...readers]) this.folded.set(reader, place);
          }
        } else if (node.op === "DequantizeLinear" && !isOutput(node) && this.isConstant(node.inputs[0])) {
          if (now.readers.has(node.outputs[0])) this.folded.set(place, place);
        }
      }
    }

    hideConstants() {
      for (const place of this.now.places) {
        const node = this.graph.nodes[place];
        const read = node.outputs.some((tensor) => this.now.readers.has(tensor));
        const isOutput = node.outputs.some((tensor) => this.model.outputs.has(tensor));
        if (node.op === "Constant" && read && !isOutput && !this.changes.has(place)) this.hidden.add(place);
      }
    }

    isConstant(tensor) {
      const known = this.model.tensor(tensor, this.step);
      return known !== undefined && known.constant && !this.now.makers.has(tensor);
    }

    idOf(place) {
      const pair = this.folded.get(place);
      return "n:" + this.graph.nodes[pair === undefined ? place : pair].name;
    }

    /** A pair that the step touched is drawn, small; one that it didn't is a mark on the edge. */
    touched(pair) {
      return [pair, ...this.pairs.get(pair)].some((place) => this.changes.has(place));
    }

    addNode(place) {
      if (this.hidden.has(place)) return;
      const node = this.graph.nodes[place];
      const pair = this.folded.get(place);
      if (pair === undefined) {
        this.put({ id: this.idOf(place), kind: "node", title: node.op, subtitle: node.name, places: [place] });
        const drawn = this.nodes.get(this.idOf(place));
        drawn.change = this.changes.get(place) || "";
        drawn.precision = node.precision;
        drawn.scope = node.scope;
      } else if (pair === place && this.pairs.has(pair) && this.touched(pair)) {
        const places = [pair, ...this.pairs.get(pair)];
        const added = places.every((each) => this.changes.get(each) === "added");
        const type = elementType(this.model.type(node.outputs[0], this.step));
        this.put({ id: this.idOf(place), kind: "pair", title: `Q/DQ ${type}`.trim(), subtitle: "", places });
        this.nodes.get(this.idOf(place)).change = added ? "added" : "changed";
        this.nodes.get(this.idOf(place)).scope = node.scope;
      }
    }

    put(node) {
      this.nodes.set(node.id, { change: "", precision: "", scope: [], members: [], stored: new Set(), ...node });
      for (const place of node.places) this.where.set(this.graph.nodes[place].name, node.id);
    }

    /** Where a tensor comes from, through folded nodes: {source: id or null, via, type, quantized}. */
    origin(tensor) {
      const via = [];
      let type = "";
      let current = tensor;
      for (;;) {
        const maker = this.now.makers.get(current);
        const pair = maker === undefined ? undefined : this.folded.get(maker);
        if (pair === undefined) return { source: this.source(current, maker), tensor: current, via, type };
        const node = this.graph.nodes[maker];
        if (this.nodes.has(this.idOf(maker))) return { source: this.idOf(maker), tensor: current, via, type };
        via.push(maker);
        if (node.op === "DequantizeLinear") type = elementType(this.model.type(node.inputs[0], this.step));
        current = node.inputs[0];
      }
    }

    source(tensor, maker) {
      if (maker !== undefined) return this.hidden.has(maker) ? null : this.idOf(maker);
      if (this.isConstant(tensor)) return this.options.constants ? this.terminal("c:", tensor, "constant") : null;
      return this.graph.inputs.includes(tensor) ? this.terminal("i:", tensor, "input") : null;
    }

    terminal(prefix, tensor, kind) {
      const id = prefix + tensor;
      if (!this.nodes.has(id)) {
        this.put({ id, kind, title: tensor, subtitle: this.model.type(tensor, this.step), places: [] });
      }
      return id;
    }

    addInputs(place) {
      const node = this.graph.nodes[place];
      const target = this.idOf(place);
      if (!this.nodes.has(target)) return;
      if (this.folded.has(place) && this.folded.get(place) !== place) return;
      for (const tensor of new Set(node.inputs)) {
        if (!tensor) continue;
        const { source, via, type, tensor: first } = this.origin(tensor);
        const maker = this.now.makers.get(first);
        for (const each of maker !== undefined && this.hidden.has(maker) ? [...via, maker] : via) {
          const name = this.graph.nodes[each].name;
          if (!this.where.has(name)) this.where.set(name, target);
        }
        if (source !== null) this.edge(source, target, first, via, type, tensor);
        if (via.length && this.isConstant(first)) this.nodes.get(target).stored.add(type);
      }
    }

    edge(source, target, tensor, via, type, last) {
      const shown = type || this.model.type(tensor, this.step);
      const ends = [this.nodes.get(source), this.nodes.get(target)];
      const added = ends.some((end) => end && end.change === "added") || via.some((p) => this.changes.has(p));
      this.edges.push({ source, target, tensor: last, type: shown, via, change: added ? "added" : "" });
    }

    addOutputs() {
      for (const tensor of this.graph.outputs) {
        const { source, via, type, tensor: first } = this.origin(tensor);
        if (source === null || source.startsWith("i:")) continue;
        this.edge(source, this.terminal("o:", tensor, "output"), first, via, type, tensor);
      }
    }

    /** What a body makes that nothing in it reads goes to the node that it is in. */
    addBodyEnds() {
      for (const node of [...this.nodes.values()]) {
        if (!node.scope.length) continue;
        const last = this.graph.nodes[node.places[node.places.length - 1]];
        const parent = "n:" + node.scope[node.scope.length - 1];
        if (this.nodes.has(parent) && last.outputs.every((tensor) => !this.now.readers.has(tensor))) {
          this.edges.push({ source: node.id, target: parent, tensor: "", type: "body", via: [], change: "" });
        }
      }
    }

    /** The id of what a node of the step before is drawn as now: a ghost, or itself in its new version. */
    idSince(place) {
      const edit = this.model.endedBy.get(place);
      if (this.model.removedBy.get(place) === this.step) return "g:" + this.graph.nodes[place].name;
      const there = edit && edit.step === this.step ? edit.edit.after : place;
      return this.where.get(this.graph.nodes[there].name);
    }

    /** Removed nodes, between those that they were between. */
    addGhosts() {
      const before = this.model.at(this.step - 1);
      const { removed } = this.model.steps[this.step];
      for (const place of removed) {
        const node = this.graph.nodes[place];
        const known = this.where.get(node.name);
        this.put({ id: "g:" + node.name, kind: "ghost", title: node.op, subtitle: node.name, places: [place] });
        this.nodes.get("g:" + node.name).change = "removed";
        this.nodes.get("g:" + node.name).scope = node.scope;
        if (known !== undefined) this.where.set(node.name, known);
      }
      const seen = new Set();
      const link = (source, target, tensor) => {
        const key = `${source}\n${target}`;
        if (source === undefined || target === undefined || source === target || seen.has(key)) return;
        seen.add(key);
        this.edges.push({ source, target, tensor, type: "", via: [], change: "removed" });
      };
      for (const place of removed) {
        const node = this.graph.nodes[place];
        for (const tensor of new Set(node.inputs)) {
          const maker = before.makers.get(tensor);
          if (maker !== undefined) link(this.idSince(maker), this.idSince(place), tensor);
          else if (this.nodes.has("i:" + tensor)) link("i:" + tensor, this.idSince(place), tensor);
        }
        for (const tensor of node.outputs) {
          for (const reader of before.readers.get(tensor) || [])
            link(this.idSince(place), this.idSince(reader), tensor);
          if (this.nodes.has("o:" + tensor)) link(this.idSince(place), "o:" + tensor, tensor);
        }
      }
    }

    /** Edges between nodes that weren't neighbours before the step. */
    markNewEdges() {
      const before = this.model.at(this.step - 1);
      const known = new Set();
      for (const place of before.places) {
        for (const tensor of this.graph.nodes[place].inputs) {
          const maker = before.makers.get(tensor);
          if (maker !== undefined) known.add(`${this.idSince(maker)}\n${this.idSince(place)}`);
        }
      }
      for (const edge of this.edges) {
        const drawn = !edge.via.length && [edge.source, edge.target].every((id) => id.startsWith("n:"));
        if (drawn && edge.tensor && !edge.change && !known.has(`${edge.source}\n${edge.target}`)) edge.change = "added";
      }
    }
  }

  function foldable(node, tensor) {
    return node.op === "DequantizeLinear" && node.inputs[0] === tensor;
  }

  /** "uint8" of "uint8[1,64]". */
  function elementType(type) {
    return type.split("[")[0];
  }

  /**
   * The visible graph of a step, before anything is grouped.
   * @param {GraphModel} model
   * @param {number} step
   * @param {{fold: boolean, constants: boolean, byPrecision: boolean}} options byPrecision: without what the step did
   */
  function visibleStep(model, step, options) {
    return new Builder(model, step, options).build();
  }

  graphopt.visibleStep = visibleStep;
  if (typeof module !== "undefined") module.exports = { visibleStep };
})();
