// From a node in the graph to what the report has about it: rows of tables, charts of galleries.
"use strict";
(function () {
  const graphopt = (window.graphopt = window.graphopt || {});
  const { el } = graphopt;

  /**
   * @param {{title: string, about: function(string): number, only: function(string): void}[]} places
   * @returns {{element: HTMLElement, show: function(string): void}}
   */
  graphopt.nodeRows = function (places) {
    const element = el("p", { id: "node-rows", role: "status" });
    function show(name) {
      const links = places
        .map((place) => ({ place, count: place.about(name) }))
        .filter(({ count }) => count > 0)
        .map(({ place, count }) => {
          const text = count > 1 ? `${place.title} (${count})` : place.title;
          return el("button", { type: "button", click: () => place.only(name) }, text);
        });
      const head = el("span", {}, links.length ? "About " : "Nothing else about ", el("bdi", { title: name }, name));
      element.replaceChildren(head, ...links);
    }
    return { element, show };
  };
})();
