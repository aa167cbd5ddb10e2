/** The graph's toolbar: steps, search, zoom and what is shown. It changes nothing itself but calls its owner. */
(function () {
  "use strict";
  const graphopt = (globalThis.graphopt = globalThis.graphopt || {});
  const SHOWN = 50;

  function button(text, label, click) {
    return graphopt.el("button", { type: "button", "aria-label": label, title: label, click }, text);
  }

  function check(text, title, changed, checked) {
    const box = graphopt.el("input", { type: "checkbox", change: () => changed(box.checked) });
    box.checked = checked;
    const label = graphopt.el("label", { class: "gv-check", title }, box, text);
    return { box, label };
  }

  /** "3 fold-batch-norm (54 changes)" */
  function stepTitle(model, index) {
    const step = model.steps[index];
    const count = model.changeCount(index);
    return graphopt.stepName(step) + (count ? ` (${count} change${count > 1 ? "s" : ""})` : "");
  }

  /**
   * @param {GraphModel} model
   * @param {object} options what is shown at first: fold, scopes, constants
   * @param {object} owner {show(step), find(text), go(name), fit(), zoom(factor), set(name, value), close()}
   */
  graphopt.graphToolbar = function graphToolbar(model, options, owner) {
    const { el } = graphopt;
    let current = 0;
    const last = model.steps.length - 1;
    const select = el("select", {
      "aria-label": "Step",
      class: "gv-steps",
      change: () => owner.show(Number(select.value)),
    });
    const previous = button("‹", "Previous step (left arrow)", () => move(-1));
    const next = button("›", "Next step (right arrow)", () => move(1));
    const changing = check("only steps with changes", "Leave out passes that changed nothing", () => list(), true);
    const field = el("input", {
      type: "search",
      placeholder: "Search nodes ( / )",
      "aria-label": "Search nodes, operators and tensors",
      input: () => found(),
      keydown: (event) => fieldKey(event),
    });
    const results = el("ul", { class: "gv-results", hidden: true, "aria-label": "Nodes found" });
    const fold = check(
      "fold Q/DQ",
      "Draw QuantizeLinear and DequantizeLinear as marks on edges",
      (on) => owner.set("fold", on),
      options.fold,
    );
    const collapse = check(
      "collapse unchanged",
      "Draw what the step left alone as groups; a click opens one",
      (on) => owner.set("collapse", on),
      false,
    );
    const scopes = check(
      "group by name",
      "Put nodes whose names have the same prefix into groups",
      (on) => owner.set("scopes", on),
      options.scopes,
    );
    scopes.box.disabled = !graphopt.scopeSeparator(model.graph.nodes.map((node) => node.name));
    if (scopes.box.disabled) scopes.label.title = "The names have no prefixes with / or .";
    const constants = check(
      "constants",
      "Draw weights and other constants",
      (on) => owner.set("constants", on),
      options.constants,
    );
    const colour = el(
      "select",
      { "aria-label": "Colour", change: () => owner.set("byPrecision", colour.value === "precision") },
      el("option", { value: "change" }, "colour: change"),
      el("option", { value: "precision" }, "colour: precision"),
    );
    const close = button("close groups", "Close the groups that you have opened", () => owner.close());
    close.hidden = true;

    const listed = () =>
      model.steps.map((_, k) => k).filter((k) => !changing.box.checked || k === 0 || k === last || model.hasChanges(k));

    function move(by) {
      const steps = listed();
      const place = by > 0 ? steps.find((k) => k > current) : steps.filter((k) => k < current).pop();
      if (place !== undefined) owner.show(place);
    }

    function list() {
      const steps = listed();
      if (!steps.includes(current)) (steps.push(current), steps.sort((a, b) => a - b));
      select.replaceChildren(...steps.map((k) => el("option", { value: String(k) }, stepTitle(model, k))));
      select.value = String(current);
      previous.disabled = steps[0] === current;
      next.disabled = steps[steps.length - 1] === current;
    }

    function found() {
      const names = owner.find(field.value);
      results.hidden = !field.value.trim();
      const rows = names.slice(0, SHOWN).map((name) => {
        const there = model.placeAt(name, current) !== undefined;
        const versions = model.versions.get(name);
        const op = model.graph.nodes[there ? model.placeAt(name, current) : versions[versions.length - 1]].op;
        const go = el("button", { type: "button", click: () => chosen(name) }, el("b", {}, op), ` ${name}`);
        if (!there) go.append(el("span", { class: "gv-note" }, " in another step"));
        return el("li", {}, go);
      });
      if (names.length > SHOWN) rows.push(el("li", { class: "gv-note" }, "more: type more of the name"));
      results.replaceChildren(...(rows.length ? rows : [el("li", { class: "gv-note" }, "nothing found")]));
    }

    function chosen(name) {
      results.hidden = true;
      owner.go(name);
    }

    function fieldKey(event) {
      if (event.key === "Enter" && owner.find(field.value).length) chosen(owner.find(field.value)[0]);
      if (event.key === "ArrowDown" && !results.hidden) results.querySelector("button")?.focus();
      if (event.key === "Escape") {
        results.hidden = true;
        field.value = "";
        field.blur();
      }
    }
    results.addEventListener("keydown", (event) => {
      const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      const all = [...results.querySelectorAll("button")];
      const to = all[all.indexOf(document.activeElement) + by];
      if (by && to) to.focus();
      if (event.key === "Escape") ((results.hidden = true), field.focus());
      if (by || event.key === "Escape") (event.preventDefault(), event.stopPropagation());
    });
    const search = el("div", { class: "gv-search" }, field, results);
    search.addEventListener("focusout", (event) => {
      if (!search.contains(event.relatedTarget)) results.hidden = true;
    });

    const several = model.steps.length > 2;
    const bar = el(
      "div",
      { class: "gv-bar", role: "toolbar", "aria-label": "Graph" },
      el("span", { class: "gv-set" }, previous, select, next, several ? changing.label : null),
      search,
      el(
        "span",
        { class: "gv-set" },
        button("−", "Zoom out", () => owner.zoom(1 / 1.4)),
        button("+", "Zoom in", () => owner.zoom(1.4)),
        button("fit", "Fit the whole graph (f)", () => owner.fit()),
      ),
      el("span", { class: "gv-set" }, fold.label, collapse.label, scopes.label, constants.label, colour, close),
    );
    return {
      bar,
      move,
      focusSearch: () => field.focus(),
      /** After a draw: which step it is, whether parts are collapsed, how many groups are open, the colour. */
      update(step, collapsed, opened, byPrecision) {
        current = step;
        list();
        collapse.box.checked = collapsed;
        close.hidden = !opened;
        colour.value = byPrecision ? "precision" : "change";
        if (!results.hidden) found();
      },
    };
  };
})();
