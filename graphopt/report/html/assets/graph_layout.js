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
   * Everything that the worker runs: it gets this function's own text, so nothing outside may be named in it.
   *
   * @param {{widths: number[], heights: number[], light: boolean[], inputs: boolean[], sources: number[], targets: number[]}}
   *   request sizes of nodes in pixels, whether a node gives way to others and whether it is an input of the model, and
   *   edges as places of nodes
   * @returns {{x: number[], y: number[], bends: number[][]}} centres of nodes, and x, y, x, y … of each edge's bends
   */
  function layeredLayout(request) {
    const GAP_X = 22;
    const GAP_Y = 36;
    const count = request.widths.length;
    const edges = Array.from(request.sources, (source, k) => ({ source, target: request.targets[k] }));
    const flipped = backEdges(count, edges);
    const ends = edges.map(({ source, target }, k) => (flipped[k] ? [target, source] : [source, target]));
    const lines = ends.filter(([a, b]) => a !== b);
    const { ranks, sorted, fed } = longestPaths(count, lines);
    // What no input leads to, constants and what is made of them, stands aside as well.
    const light = Array.from(request.light, (asked, n) => asked || (!fed[n] && request.inputs.includes(true)));
    const aside = ([a, b]) => light[a] || light[b];
    const main = lines.filter((line) => !aside(line));
    const forks = dominators(sorted, main);
    const joins = dominators([...sorted].reverse(), main.map(([a, b]) => [b, a]));

    // Slots: the nodes, then bends of edges that cross a rank, one for each source and rank, and one for those aside.
    const rankOf = ranks.slice();
    const width = Array.from(request.widths);
    // How hard it is to push a slot aside: nodes stay, bends give way, and what is light gives way to them.
    const strength = light.map((gives) => (gives ? 0.1 : 100));
    const owner = new Map();
    const links = [];
    const linked = new Set();
    const link = (a, b, weight) => {
      const key = a * 4194304 + b;
      if (!linked.has(key)) linked.add(key), links.push([a, b, weight]);
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

    order(layers, above, below, total);
    const x = coordinates();
    straighten();
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

    /** Which edges to turn round so that there is no cycle: those that a depth-first search finds to go back. */
    function backEdges(size, all) {
      const out = Array.from({ length: size }, () => []);
      all.forEach(({ source }, k) => out[source].push(k));
      const state = new Uint8Array(size);
      const back = new Uint8Array(all.length);
      for (let start = 0; start < size; start++) {
        if (state[start]) continue;
        const stack = [[start, 0]];
        state[start] = 1;
        while (stack.length) {
          const frame = stack[stack.length - 1];
          const next = out[frame[0]][frame[1]++];
          if (next === undefined) {
            state[frame[0]] = 2;
            stack.pop();
          } else if (state[all[next].target] === 1) {
            back[next] = 1;
          } else if (!state[all[next].target]) {
            state[all[next].target] = 1;
            stack.push([all[next].target, 0]);
          }
        }
      }
      return back;
    }

    /** Ranks from 0: longest paths from above. Inputs, and what isn't below any, go down to just above the first reader. */
    function longestPaths(size, all) {
      const below = Array.from({ length: size }, () => []);
      const waiting = new Int32Array(size);
      for (const [a, b] of all) below[a].push(b), waiting[b]++;
      const source = Array.from(waiting, (n) => n === 0);
      const queue = [];
      for (let n = 0; n < size; n++) if (source[n]) queue.push(n);
      const rank = new Array(size).fill(0);
      for (const n of queue) {
        for (const other of below[n]) {
          rank[other] = Math.max(rank[other], rank[n] + 1);
          if (--waiting[other] === 0) queue.push(other);
        }
      }
      const fed = Array.from(request.inputs);
      for (const n of queue) if (fed[n]) for (const other of below[n]) fed[other] = true;
      for (const n of [...queue].reverse()) {
        if (below[n].length && (source[n] || !fed[n])) {
          rank[n] = below[n].reduce((low, other) => Math.min(low, rank[other]), 1e9) - 1;
        }
      }
      return { ranks: rank, sorted: queue, fed };
    }

    /** For each node that several edges lead to, the last node that all ways to it pass; −1 for others, and for none. */
    function dominators(sorted, all) {
      const into = Array.from({ length: sorted.length }, () => []);
      for (const [a, b] of all) into[b].push(a);
      const last = new Int32Array(sorted.length).fill(-1);
      const depth = new Int32Array(sorted.length);
      for (const n of sorted) {
        if (!into[n].length) continue;
        let common = into[n][0];
        for (let other of into[n]) {
          while (common !== other && common >= 0 && other >= 0) {
            if (depth[common] >= depth[other]) common = last[common];
            else other = last[other];
          }
          if (other < 0) common = -1;
        }
        last[n] = common;
        depth[n] = common < 0 ? 0 : depth[common] + 1;
      }
      return last.map((fork, n) => (new Set(into[n]).size > 1 ? fork : -1));
    }

    /** Orders each layer by its neighbours' mean places, down and up in turns, and keeps the order that crosses least. */
    function order(all, up, down, size) {
      const place = new Float64Array(size);
      const number = (layer) => layer.forEach((slot, k) => (place[slot] = k));
      all.forEach(number);
      const sweep = (list, side) => {
        for (const layer of list) {
          const wanted = new Map();
          for (const slot of layer) {
            const near = side[slot];
            let sum = 0;
            for (const [other] of near) sum += place[other];
            wanted.set(slot, near.length ? sum / near.length : place[slot]);
          }
          layer.sort((a, b) => wanted.get(a) - wanted.get(b) || place[a] - place[b]);
          number(layer);
        }
      };
      const reversed = [...all].reverse();
      let best = all.map((layer) => layer.slice());
      let least = Infinity;
      const rounds = size > 20000 ? 3 : 8;
      for (let round = 0; round < rounds && least > 0; round++) {
        sweep(all, up);
        sweep(reversed, down);
        sweep(all, up);
        const crossings = all.reduce((sum, layer) => sum + crossed(layer, down, place), 0);
        if (crossings < least) {
          least = crossings;
          best = all.map((layer) => layer.slice());
        } else if (round > 2) break;
      }
      best.forEach((layer, k) => (all[k] = layer));
    }

    /** How many pairs of links below a layer cross: inversions, counted in a Fenwick tree. */
    function crossed(layer, down, place) {
      const ends = [];
      for (const slot of layer) {
        const own = down[slot].map(([other]) => place[other]).sort((a, b) => a - b);
        for (const end of own) ends.push(end);
      }
      let most = 0;
      for (const end of ends) most = Math.max(most, end);
      const tree = new Int32Array(most + 2);
      let sum = 0;
      ends.forEach((end, k) => {
        let notAbove = 0;
        for (let i = end + 1; i > 0; i -= i & -i) notAbove += tree[i];
        sum += k - notAbove;
        for (let i = end + 1; i < tree.length; i += i & -i) tree[i]++;
      });
      return sum;
    }

    /** Each slot near the weighted median of its neighbours, or below its fork, as far as those beside it leave room. */
    function coordinates() {
      const at = new Float64Array(total);
      for (const layer of layers) {
        let left = 0;
        for (const slot of layer) {
          at[slot] = left + width[slot] / 2;
          left += width[slot] + GAP_X;
        }
        for (const slot of layer) at[slot] -= (left - GAP_X) / 2;
      }
      const settle = (layer, side, goals) => {
        const blocks = [];
        let offset = 0;
        layer.forEach((slot, k) => {
          if (k) offset += apart(layer[k - 1], slot);
          const goal = slot < count ? goals[slot] : -1;
          const near = side[slot].length ? median(side[slot], at) : at[slot];
          const weight = strength[slot];
          let block = { sum: ((goal < 0 ? near : at[goal]) - offset) * weight, weight, slots: [[slot, offset]] };
          for (let left; (left = blocks[blocks.length - 1]) && left.sum * block.weight > block.sum * left.weight; ) {
            blocks.pop();
            left.sum += block.sum;
            left.weight += block.weight;
            for (const each of block.slots) left.slots.push(each);
            block = left;
          }
          blocks.push(block);
        });
        for (const block of blocks) for (const [slot, own] of block.slots) at[slot] = block.sum / block.weight + own;
      };
      const reversed = [...layers].reverse();
      for (let round = 0; round < 4; round++) {
        for (const layer of reversed) settle(layer, below, joins);
        for (const layer of layers) settle(layer, above, forks);
      }
      return at;
    }

    /** How far the centres of two neighbours in a layer must be apart. */
    function apart(left, right) {
      return (width[left] + width[right]) / 2 + GAP_X;
    }

    /** Draws the bends of each edge in lines as long as the nodes beside them allow. */
    function straighten() {
      const beside = new Map();
      for (const layer of layers) layer.forEach((slot, k) => beside.set(slot, [layer[k - 1], layer[k + 1]]));
      const room = (slot) => {
        const [left, right] = beside.get(slot);
        return [left === undefined ? -1e9 : x[left] + apart(left, slot), right === undefined ? 1e9 : x[right] - apart(slot, right)];
      };
      const done = new Set();
      for (const way of ways) {
        const own = way.filter((slot) => !done.has(slot));
        for (let from = 0; from < own.length; ) {
          let [low, high] = room(own[from]);
          let to = from + 1;
          for (; to < own.length; to++) {
            const [left, right] = room(own[to]);
            if (Math.max(low, left) > Math.min(high, right)) break;
            low = Math.max(low, left);
            high = Math.min(high, right);
          }
          const places = own.slice(from, to).map((slot) => x[slot]).sort((a, b) => a - b);
          const line = Math.min(high, Math.max(low, places[places.length >> 1]));
          for (const slot of own.slice(from, to)) x[slot] = line, done.add(slot);
          from = to;
        }
      }
    }

    /** The middle of weighted neighbours; of two equal halves their mean. */
    function median(near, at) {
      if (near.length === 1) return at[near[0][0]];
      const sorted = near.map(([other, weight]) => [at[other], weight]).sort((a, b) => a[0] - b[0]);
      const half = sorted.reduce((sum, [, weight]) => sum + weight, 0) / 2;
      let sum = 0;
      for (let k = 0; k < sorted.length; k++) {
        sum += sorted[k][1];
        if (sum > half) return sorted[k][0];
        if (sum === half) return (sorted[k][0] + sorted[k + 1][0]) / 2;
      }
      return sorted[sorted.length - 1][0];
    }

    /** Without the bends at which a line goes straight on. */
    function simple(points) {
      const kept = [];
      for (let i = 0; i < points.length; i += 2) {
        const straight =
          i > 0 && i + 2 < points.length &&
          Math.abs(points[i - 2] - points[i]) < 1 && Math.abs(points[i + 2] - points[i]) < 1;
        if (!straight) kept.push(points[i], points[i + 1]);
      }
      return kept;
    }
  }

  graphopt.layeredLayout = layeredLayout;
  if (typeof module !== "undefined") module.exports = { layeredLayout };
})();
