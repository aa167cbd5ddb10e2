/**
 * What a page asks about a graph and its steps: who is there, who makes and reads what, what a step did, a node's life.
 *
 * No drawing and no DOM. A "place" is an index into `graph.nodes`, whose entries are nodes in one of their versions.
 */
(function () {
  "use strict";
  const graphopt = (globalThis.graphopt = globalThis.graphopt || {});
  const MOST_FOUND = 200;
  const MOMENTS_KEPT = 4;

  /** A graph at one step. */
  class Moment {
    constructor(graph, step) {
      /** Places of the nodes that are there, in the model's order. */
      this.places = [];
      /** Name → place. */
      this.byName = new Map();
      /** Tensor → place of the node that makes it. */
      this.makers = new Map();
      /** Tensor → places of the nodes that read it, each once. */
      this.readers = new Map();
      graph.nodes.forEach((node, place) => {
        if (node.since <= step && step < node.until) this.places.push(place);
      });
      for (const place of this.places) {
        const node = graph.nodes[place];
        this.byName.set(node.name, place);
        for (const tensor of node.outputs) if (tensor) this.makers.set(tensor, place);
        for (const tensor of new Set(node.inputs)) {
          if (!tensor) continue;
          const readers = this.readers.get(tensor);
          if (readers) readers.push(place);
          else this.readers.set(tensor, [place]);
        }
      }
    }
  }

  /** "3 fold-pad", or the bare title of what isn't a pass: the model as it came, or one of two models. */
  function stepName(step) {
    return step.index > 0 && step.lossless !== null ? `${step.index} ${step.title}` : step.title;
  }

  /** Questions about a `GraphSteps`. */
  class GraphModel {
    /** @param {object} graph a `GraphSteps`, as in payload.py */
    constructor(graph) {
      this.graph = graph;
      this.steps = graph.steps;
      this.moments = new Map();
      this.versions = new Map();
      graph.nodes.forEach((node, place) => {
        const places = this.versions.get(node.name);
        if (places) places.push(place);
        else this.versions.set(node.name, [place]);
      });
      this.tensors = new Map();
      for (const tensor of graph.tensors) {
        const versions = this.tensors.get(tensor.name);
        if (versions) versions.push(tensor);
        else this.tensors.set(tensor.name, [tensor]);
      }
      this.outputs = new Set(graph.outputs);
      /** Place → {step, edit}: the edit that made this version, and the one that ended it. */
      this.madeBy = new Map();
      this.endedBy = new Map();
      /** Place → the step that removed it. */
      this.removedBy = new Map();
      graph.steps.forEach((step, index) => {
        for (const edit of step.edits) {
          this.madeBy.set(edit.after, { step: index, edit });
          this.endedBy.set(edit.before, { step: index, edit });
        }
        for (const place of step.removed) this.removedBy.set(place, index);
      });
    }

    /** @param {number} step @returns {Moment} */
    at(step) {
      let moment = this.moments.get(step);
      if (!moment) {
        moment = new Moment(this.graph, step);
        this.moments.set(step, moment);
        if (this.moments.size > MOMENTS_KEPT) this.moments.delete(this.moments.keys().next().value);
      }
      return moment;
    }

    /** Whether a step has anything to see: the first and the last always have. */
    hasChanges(step) {
      const { removed, added, edits } = this.steps[step];
      return removed.length + added.length + edits.length > 0;
    }

    /** How many nodes a step removed, added and edited. */
    changeCount(step) {
      const { removed, added, edits } = this.steps[step];
      return removed.length + added.length + edits.length;
    }

    /** What a step did, by place: "added" or "changed" of nodes that are there, "removed" of those that were. */
    changes(step) {
      const found = new Map();
      for (const place of this.steps[step].removed) found.set(place, "removed");
      for (const place of this.steps[step].added) found.set(place, "added");
      for (const edit of this.steps[step].edits) found.set(edit.after, "changed");
      return found;
    }

    /** A tensor as it is at a step, or as the step found it; undefined for a name that neither has. */
    tensor(name, step) {
      const versions = this.tensors.get(name) || [];
      const at = (k) => versions.find((v) => v.since <= k && k < v.until);
      return at(step) || at(step - 1);
    }

    /** "float32[1,3]" of a tensor at a step, or "". */
    type(name, step) {
      const tensor = this.tensor(name, step);
      return tensor ? tensor.type : "";
    }

    /** The place of a node at a step: there, or just removed by it; undefined when it is neither. */
    placeAt(name, step) {
      const there = this.at(step).byName.get(name);
      if (there !== undefined) return there;
      return this.steps[step].removed.find((place) => this.graph.nodes[place].name === name);
    }

    /** The step at which to show a node: the given one if it has the node, else the last one that has; −1 for none. */
    stepWith(name, step) {
      if (this.placeAt(name, step) !== undefined) return step;
      const places = this.versions.get(name);
      return places ? Math.max(...places.map((place) => this.graph.nodes[place].until)) - 1 : -1;
    }

    /** Name of the node that makes a tensor, at a step; undefined for inputs, constants and unknown names. */
    maker(tensor, step) {
      const place = this.at(step).makers.get(tensor);
      return place === undefined ? undefined : this.graph.nodes[place].name;
    }

    /** Names of the nodes that read a tensor, at a step. */
    readers(tensor, step) {
      return (this.at(step).readers.get(tensor) || []).map((place) => this.graph.nodes[place].name);
    }

    /**
     * Everything that happened to the node that has this version, under all of its names, in order.
     * @param {number} place
     * @returns {{step: number, kind: string, text: string}[]}
     */
    life(place) {
      const versions = [place];
      while (this.madeBy.has(versions[0])) versions.unshift(this.madeBy.get(versions[0]).edit.before);
      for (let next; (next = this.endedBy.get(versions[versions.length - 1]));) versions.push(next.edit.after);
      const events = [];
      versions.forEach((version, k) => {
        const node = this.graph.nodes[version];
        const edited = this.madeBy.get(version);
        if (edited) events.push({ step: edited.step, kind: "changed", text: edited.edit.what.join("; ") });
        else events.push({ step: node.since, kind: node.since ? "added" : "given", text: "" });
        const last = k === versions.length - 1 ? node.until : node.until - 1;
        for (let step = node.since; step <= last && step < this.steps.length; step++) {
          for (const remark of this.remarks(step, node.name)) {
            events.push({ step, kind: remark.kind, text: remark.message });
          }
        }
        const removed = this.removedBy.get(version);
        if (removed !== undefined) events.push({ step: removed, kind: "removed", text: "" });
      });
      return events;
    }

    /** What a step's pass said about a node. */
    remarks(step, name) {
      if (!this.said) {
        this.said = this.steps.map((each) => {
          const byNode = new Map();
          for (const remark of each.remarks) {
            if (!byNode.has(remark.node)) byNode.set(remark.node, []);
            byNode.get(remark.node).push(remark);
          }
          return byNode;
        });
      }
      return this.said[step].get(name) || [];
    }

    /**
     * Names of nodes whose name, operator or a tensor contains the text, whatever the case: best first, those of the
     * step before those of other steps, at most 200.
     */
    search(text, step) {
      const wanted = text.trim().toLowerCase();
      if (!wanted) return [];
      const ranks = new Map();
      this.graph.nodes.forEach((node, place) => {
        const there = node.since <= step && step < node.until;
        const rank = matchRank(node, wanted);
        if (rank < 0) return;
        const total = rank + (there ? 0 : 4);
        const known = ranks.get(node.name);
        if (known === undefined || total < known.rank) ranks.set(node.name, { rank: total, place });
      });
      const found = [...ranks.entries()].sort((a, b) => a[1].rank - b[1].rank || a[1].place - b[1].place);
      return found.slice(0, MOST_FOUND).map(([name]) => name);
    }
  }

  /** 0 for the name itself, 1 for part of the name, 2 for the operator, 3 for a tensor, −1 for none. */
  function matchRank(node, wanted) {
    const name = node.name.toLowerCase();
    if (name === wanted) return 0;
    if (name.includes(wanted)) return 1;
    if (node.op.toLowerCase().includes(wanted)) return 2;
    const touches = (tensors) => tensors.some((tensor) => tensor.toLowerCase().includes(wanted));
    return touches(node.outputs) || touches(node.inputs) ? 3 : -1;
  }

  graphopt.GraphModel = GraphModel;
  graphopt.stepName = stepName;
  if (typeof module !== "undefined") module.exports = { GraphModel, stepName };
})();
