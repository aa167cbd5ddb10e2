/** Layouts from a worker, each made once; from the main thread where the browser refuses workers. */
(function () {
  "use strict";
  const graphopt = (globalThis.graphopt = globalThis.graphopt || {});
  const KEPT = 40;

  /** @class Makes layouts and keeps the last ones. */
  graphopt.Layouts = class Layouts {
    constructor() {
      this.made = new Map();
      this.waiting = new Map();
      this.count = 0;
      this.worker = null;
      const parts = Object.entries(graphopt.layoutParts).map(([name, part]) => `${name}: ${part}`);
      const source =
        `"use strict"; const parts = { ${parts.join(",\n")} }; ${graphopt.layeredLayout}\n` +
        "onmessage = ({ data }) => postMessage({ number: data.number, layout: layeredLayout(data.request, parts) });";
      try {
        // A page from disk may make workers of its own blobs, but not of files beside it.
        this.url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
        this.worker = new Worker(this.url);
        this.worker.onmessage = ({ data }) => this.answer(data.number, data.layout);
        this.worker.onerror = (event) => {
          event.preventDefault();
          this.giveUp();
        };
      } catch {
        this.worker = null;
      }
    }

    /**
     * @param {string} key what the request depends on
     * @param {object} request as `layeredLayout` takes it
     * @returns {Promise<{x: number[], y: number[], bends: number[][]}>}
     */
    get(key, request) {
      const known = this.made.get(key);
      if (known) return known;
      const promise = new Promise((resolve) => {
        const number = this.count++;
        this.waiting.set(number, { request, resolve });
        if (this.worker) this.worker.postMessage({ number, request });
        else this.here(number);
      });
      this.made.set(key, promise);
      if (this.made.size > KEPT) this.made.delete(this.made.keys().next().value);
      return promise;
    }

    /** Behind the next paint, so that the page can say that it is busy. */
    here(number) {
      setTimeout(() => this.answer(number, graphopt.layeredLayout(this.waiting.get(number).request)), 30);
    }

    answer(number, layout) {
      const { resolve } = this.waiting.get(number);
      this.waiting.delete(number);
      resolve(layout);
    }

    giveUp() {
      this.worker = null;
      for (const number of this.waiting.keys()) this.here(number);
    }
  };
})();
