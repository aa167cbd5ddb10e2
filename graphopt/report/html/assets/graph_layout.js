/**
 * Layered layout from top to bottom, in time close to linear, off the main thread where workers are allowed.
 *
 * Networks are deep: dagre 3.1.3 takes 0.6 to 1.3 s for a chain of blocks with 500 nodes, 2 to 3 s for 1,300, and runs
 * out of stack at 4,000. This is the same scheme (ranks, bends for edges across ranks, order by barycenters,
 * coordinates) with three simplifications: ranks by longest paths, edges from one node share their bends, and
 * coordinates by isotonic regression of each rank, down and up in turns. What joins again is put below what it forked
 * from, so that a network with residuals stays upright. Sources: Sugiyama, Tagawa and Toda 1981; Eades and Wormald 1994
 * (medians); Ayer et al. 1955 (pool adjacent violators); Cooper, Harvey and Kennedy 2001 (dominators).
 */
(function () {
  "use strict";
  const graphopt = (globalThis.graphopt = globalThis.graphopt || {});

  /**
   * Runs in the worker by its own text, so it may name nothing outside but its parts, which the worker gives it.
   *
   * @param {object} request
   * @param {number[]} request.widths of nodes, in pixels
   * @param {number[]} request.heights
   * @param {boolean[]} request.light whether a node gives way to others
   * @param {boolean[]} request.inputs whether it is an input of the model
   * @param {number[]} request.sources places of the nodes that edges start at
   * @param {number[]} request.targets and lead to
   * @returns {{x: number[], y: number[], bends: number[][]}} centres of nodes, and x, y, x, y … of each edge's bends
   */
  function layeredLayout(request, parts = graphopt.layoutParts) {
    const GAP_X = 22;
    const GAP_Y = 36;
    const count = request.widths.length;
    const edges = Array.from(request.sources, (source, k) => [source, request.targets[k]]);
    const flipped = parts.backEdges(count, edges);
    const ends = edges.map(([source, target], k) => (flipped[k] ? [target, source] : [source, target]));
    const lines = ends.filter(([a, b]) => a !== b);
    const { ranks, sorted, fed } = parts.longestPaths(count, lines, request.inputs);
    // What no input leads to, constants and what is made of them, stands aside as well.
    const light = Array.from(request.light, (asked, n) => asked || (!fed[n] && request.inputs.includes(true)));
    const aside = ([a, b]) => light[a] || light[b];
    const main = lines.filter((line) => !aside(line));
    const forks = parts.dominators(sorted, main);
    const joins = parts.dominators(
      [...sorted].reverse(),
      main.map(([a, b]) => [b, a]),
    );

    // Slots: the nodes, then bends of edges that cross a rank, one for each source and rank, and one for those aside.
    const rankOf = ranks.slice();
    const width = Array.from(request.widths);
    // How hard it is to push a slot aside: nodes stay, bends give way, and what is light gives way to them.
    const strength = light.map((gives) => (gives ? 0.001 : 100));
    const owner = new Map();
    const links = [];
    const linked = new Set();
    const link = (a, b, weight) => {
      const key = a * 4194304 + b;
      if (!linked.has(key)) (linked.add(key), links.push([a, b, weight]));
    };
    const ways = ends.map(([source, target]) => {
      const way = [];
      if (source === target) return way;
      const faint = aside([source, target]);
      let last = source;
      for (let rank = ranks[source] + 1; rank < ranks[target]; rank++) {
        const key = (2 * source + Number(faint)) * 65536 + rank;
        let slot = owner.get(key);
        if (slot === undefined) {
          slot = rankOf.length;
          owner.set(key, slot);
          rankOf.push(rank);
          width.push(6);
          strength.push(1);
        }
        link(last, slot, faint ? 0.1 : last >= count ? 8 : 1);
        way.push(slot);
        last = slot;
      }
      link(last, target, faint ? 0.1 : last >= count ? 1 : 2);
      return way;
    });
    const total = rankOf.length;
    const above = Array.from({ length: total }, () => []);
    const below = Array.from({ length: total }, () => []);
    for (const [a, b, weight] of links) {
      below[a].push([b, weight]);
      above[b].push([a, weight]);
    }
    const layers = [];
    for (let slot = 0; slot < total; slot++) (layers[rankOf[slot]] = layers[rankOf[slot]] || []).push(slot);

    parts.order(layers, above, below, total);
    const x = parts.coordinates({ layers, above, below, width, strength, ways, forks, joins, gap: GAP_X });
    const heights = layers.map((layer) => Math.max(...layer.map((slot) => (slot < count ? request.heights[slot] : 0))));
    const middle = [];
    let top = 0;
    for (const height of heights) {
      middle.push(top + height / 2);
      top += height + GAP_Y;
    }
    const bends = ways.map((way, k) => {
      const points = [];
      for (const slot of way) {
        const half = heights[rankOf[slot]] / 2;
        points.push(x[slot], middle[rankOf[slot]] - half, x[slot], middle[rankOf[slot]] + half);
      }
      if (!flipped[k]) return simple(points);
      const turned = [];
      for (let i = points.length - 2; i >= 0; i -= 2) turned.push(points[i], points[i + 1]);
      return simple(turned);
    });
    return { x: Array.from(x.subarray(0, count)), y: ranks.map((rank) => middle[rank]), bends };

    /** Without the bends at which a line goes straight on. */
    function simple(points) {
      const kept = [];
      for (let i = 0; i < points.length; i += 2) {
        const straight =
          i > 0 &&
          i + 2 < points.length &&
          Math.abs(points[i - 2] - points[i]) < 1 &&
          Math.abs(points[i + 2] - points[i]) < 1;
        if (!straight) kept.push(points[i], points[i + 1]);
      }
      return kept;
    }
  }

  graphopt.layeredLayout = layeredLayout;
  if (typeof module !== "undefined") module.exports = { layeredLayout };
})();
