/** The panel beside the graph: a step and what it rewrote, a node with its life, or a tensor. */
(function () {
  "use strict";
  const graphopt = (globalThis.graphopt = globalThis.graphopt || {});
  const SHOWN_AT_FIRST = 60;
  const KEYS =
    "Drag to move. Click into the graph, then the wheel zooms; with Ctrl it always does. ← and → step, / searches, " +
    "f fits, + and − zoom, Esc deselects.";
  const WORDS = { added: "added", changed: "changed", removed: "removed" };

  const el = (...given) => graphopt.el(...given);
  const heading = (text) => el("h4", {}, text);

  /** Items of a list, the first sixty and the others behind a button. */
  function longList(items, render) {
    const list = el("ul", { class: "gv-list" });
    const show = (from) => {
      list.append(...items.slice(from, from + SHOWN_AT_FIRST).map(render));
      const left = items.length - from - SHOWN_AT_FIRST;
      if (left <= 0) return;
      const more = el(
        "li",
        {},
        el("button", { type: "button", click: () => (more.remove(), show(from + SHOWN_AT_FIRST)) }, `${left} more`),
      );
      list.append(more);
    };
    show(0);
    return list;
  }

  function facts(rows) {
    const list = el("dl", { class: "gv-facts" });
    for (const [name, value] of rows) list.append(el("dt", {}, name), el("dd", {}, value));
    return list;
  }

  /** What the panel shows, made for one view. */
  graphopt.GraphPanel = class GraphPanel {
    /**
     * @param {GraphModel} model
     * @param {object} owner {select(name, step), show(step), highlight(places), open(id)}
     */
    constructor(model, owner) {
      this.model = model;
      this.owner = owner;
      this.root = el("aside", { class: "gv-panel", "aria-label": "Details", tabindex: "0" });
    }

    fill(...children) {
      this.root.replaceChildren(...children.filter(Boolean));
      this.root.scrollTop = 0;
    }

    link(name, step, text = name) {
      return el(
        "button",
        { type: "button", class: "gv-link", title: name, click: () => this.owner.select(name, step) },
        text,
      );
    }

    stepLink(step) {
      const name = graphopt.stepName(this.model.steps[step]);
      return el("button", { type: "button", class: "gv-link", click: () => this.owner.show(step) }, name);
    }

    /** A node that a step touched: a sign, its operator, its name as a link. */
    touched(place, change, step) {
      const node = this.model.graph.nodes[place];
      return el(
        "span",
        { class: `gv-change gv-${change}`, title: WORDS[change] },
        graphopt.changeSigns[change],
        el("b", {}, node.op),
        " ",
        this.link(node.name, step),
      );
    }

    /** The whole step: figures, rewrites, remarks. */
    showStep(index) {
      const { model } = this;
      const step = model.steps[index];
      const counts = new Map();
      for (const remark of step.remarks) counts.set(remark.kind, (counts.get(remark.kind) || 0) + 1);
      const rows = [["Nodes", index ? `${step.nodes[0]} → ${step.nodes[1]}` : String(step.nodes[1])]];
      const bytes = step.nbytes.map((count) => graphopt.number(count, "bytes"));
      if (step.nbytes[1]) rows.push(["Constants", bytes[0] === bytes[1] ? bytes[1] : `${bytes[0]} → ${bytes[1]}`]);
      if (step.seconds !== null) rows.push(["Time", graphopt.number(step.seconds, "seconds")]);
      if (step.lossless !== null) rows.push(["Lossless", step.lossless ? "yes, the pass promises" : "no"]);
      if (step.options) rows.push(["Options", step.options]);
      for (const [name, value] of step.figures) rows.push([name, value]);
      for (const [kind, count] of counts) rows.push([kind, String(count)]);
      const words = new Map(step.edits.map((edit) => [edit.after, edit.what]));
      this.fill(
        el("h3", {}, graphopt.stepName(step)),
        facts(rows),
        step.rewrites.length ? heading(`${step.rewrites.length} rewrite${step.rewrites.length > 1 ? "s" : ""}`) : null,
        step.rewrites.length ? longList(step.rewrites, (rewrite) => this.rewrite(rewrite, index, words)) : null,
        !step.changed && index ? el("p", { class: "gv-note" }, "This pass left the graph as it was.") : null,
        step.remarks.length ? heading("What the pass said") : null,
        step.remarks.length ? longList(step.remarks, (remark) => this.remark(remark, index)) : null,
        heading("Operators"),
        this.operators(index),
        heading("Keys"),
        el("p", { class: "gv-note" }, KEYS),
      );
    }

    rewrite([removed, added, edited], step, words) {
      const parts = [
        ...removed.map((place) => [place, "removed"]),
        ...added.map((place) => [place, "added"]),
        ...edited.map((place) => [place, "changed"]),
      ];
      const body = el("ul", { hidden: true });
      const title = this.counted(parts);
      const first = this.model.graph.nodes[parts[0][0]].name;
      const button = el(
        "button",
        {
          type: "button",
          class: "gv-rewrite",
          "aria-expanded": "false",
          title: first,
          click: () => {
            if (!body.children.length) {
              for (const [place, change] of parts) {
                const what = (words.get(place) || []).map((text) => el("div", { class: "gv-note" }, text));
                body.append(el("li", {}, this.touched(place, change, step), ...what));
              }
            }
            body.hidden = !body.hidden;
            button.setAttribute("aria-expanded", String(!body.hidden));
            if (!body.hidden) this.owner.highlight(parts.map(([place]) => place));
          },
        },
        title,
        el("span", { class: "gv-note" }, ` ${first}`),
      );
      return el("li", {}, button, body);
    }

    /** "− BatchNormalization, ~ Conv ×2" */
    counted(parts) {
      const counts = new Map();
      for (const [place, change] of parts) {
        const text = graphopt.changeSigns[change] + this.model.graph.nodes[place].op;
        counts.set(text, (counts.get(text) || 0) + 1);
      }
      return [...counts].map(([text, count]) => (count > 1 ? `${text} ×${count}` : text)).join(", ");
    }

    /** How many nodes of each operator a step has. */
    operators(step) {
      const counts = new Map();
      for (const place of this.model.at(step).places) {
        const { op } = this.model.graph.nodes[place];
        counts.set(op, (counts.get(op) || 0) + 1);
      }
      const sorted = [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
      return facts(sorted.map(([op, count]) => [op, String(count)]));
    }

    remark(remark, step) {
      const node = remark.node && this.model.versions.has(remark.node) ? this.link(remark.node, step) : remark.node;
      return el("li", {}, el("b", {}, remark.kind), remark.node ? " " : "", node || "", `: ${remark.message}`);
    }

    /** A node as it is at a step; a removed one as it was. `element` is what it is drawn as. */
    showNode(place, step, element) {
      const { model } = this;
      const node = model.graph.nodes[place];
      const ghost = model.removedBy.get(place) === step;
      const moment = ghost ? step - 1 : step;
      const edited = model.madeBy.get(place);
      const now = model.changes(step).get(place);
      const said = model.remarks(step, node.name);
      const rows = [["Name", node.name]];
      if (node.scope.length) rows.push(["Inside", node.scope.join(" / ")]);
      const result = [node.precision, ...node.badges].filter(Boolean);
      if (result.length) rows.push(["In the result", result.join(", ")]);
      const attributes = Object.entries(node.attributes);
      this.fill(
        el("h3", {}, node.op),
        facts(rows),
        this.opener(element, place),
        now ? heading("In this step") : null,
        now ? el("p", { class: `gv-change gv-${now}` }, graphopt.changeSigns[now] + WORDS[now]) : null,
        now === "changed" && edited
          ? el("ul", { class: "gv-list" }, ...edited.edit.what.map((text) => el("li", {}, text)))
          : null,
        said.length ? heading("What the pass said") : null,
        said.length ? longList(said, (remark) => el("li", {}, el("b", {}, remark.kind), `: ${remark.message}`)) : null,
        attributes.length ? heading("Attributes") : null,
        attributes.length ? facts(attributes) : null,
        node.inputs.length ? heading("Inputs") : null,
        ...node.inputs.map((tensor, k) => this.end(tensor, k, moment, true)),
        heading("Outputs"),
        ...node.outputs.map((tensor, k) => this.end(tensor, k, moment, false)),
        heading("Life"),
        this.life(place, step),
      );
    }

    /** A button for what is inside a node: a body, or a part that is drawn as one. */
    opener(element, place) {
      if (!element || !element.members.length || !element.places.includes(place)) return null;
      const text = `open: ${element.members.length} nodes inside`;
      return el("p", {}, el("button", { type: "button", click: () => this.owner.open(element.id) }, text));
    }

    /** An input or output: the tensor, its type, and the nodes at its other end. */
    end(tensor, place, step, isInput) {
      if (!tensor) return el("div", { class: "gv-end" }, `${place}: left out`);
      const { model } = this;
      const known = model.tensor(tensor, step);
      const type = el("div", { class: "gv-note" }, known ? known.type : "type not known");
      const block = el("div", { class: "gv-end" }, `${place}: `, el("span", { class: "gv-name" }, tensor), type);
      if (known && known.constant) type.append(`, constant, ${graphopt.number(known.nbytes, "bytes")}`);
      const others = isInput ? [model.maker(tensor, step)].filter(Boolean) : model.readers(tensor, step);
      if (isInput && !others.length && model.graph.inputs.includes(tensor)) type.append(", input of the model");
      if (!isInput && model.outputs.has(tensor)) type.append(", output of the model");
      if (others.length) block.append(longList(others, (name) => this.neighbour(name, step, isInput)));
      return block;
    }

    neighbour(name, step, isInput) {
      const node = this.model.graph.nodes[this.model.at(step).byName.get(name)];
      return el("li", {}, isInput ? "from " : "to ", el("b", {}, node.op), " ", this.link(name, step));
    }

    life(place, step) {
      return longList(this.model.life(place), (event) => {
        const item = el("li", {}, this.stepLink(event.step), ` ${event.kind}${event.text ? ": " + event.text : ""}`);
        if (event.step === step) item.setAttribute("aria-current", "step");
        return item;
      });
    }

    /** An edge: its tensor, who makes and reads it, and the pairs folded into it. */
    showEdge(edge, step) {
      const { model } = this;
      const folded = edge.via.map((place) => model.graph.nodes[place]);
      const moment = edge.change === "removed" ? step - 1 : step;
      const maker = model.maker(edge.tensor, moment);
      this.fill(
        el("h3", {}, "Tensor"),
        facts([
          ["Name", edge.tensor || "a body's result"],
          ["Type", model.type(edge.tensor, moment) || edge.type || "not known"],
        ]),
        maker ? heading("Made by") : null,
        maker ? el("ul", { class: "gv-list" }, this.neighbour(maker, moment, true)) : null,
        heading("Read by"),
        longList(model.readers(edge.tensor, moment), (name) => this.neighbour(name, moment, false)),
        folded.length ? heading("Folded into this edge") : null,
        folded.length
          ? longList([...folded].reverse(), (node) =>
              el("li", {}, el("b", {}, node.op), " ", this.link(node.name, step)),
            )
          : null,
      );
    }

    /** An input, output or constant of the model. */
    showTerminal(element, step) {
      const readers = this.model.readers(element.title, step);
      this.fill(
        el("h3", {}, element.kind[0].toUpperCase() + element.kind.slice(1)),
        facts([
          ["Name", element.title],
          ["Type", element.subtitle || "not known"],
        ]),
        readers.length ? heading("Read by") : null,
        readers.length ? longList(readers, (name) => this.neighbour(name, step, false)) : null,
      );
    }
  };
})();
