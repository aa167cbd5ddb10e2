/**
 * Parts of the layout that look at one rank after the other: the order of its slots, and their coordinates. A slot is a
 * node, or a bend of an edge that crosses the rank. Neighbours are lists of [slot, weight].
 *
 * Each function runs in the worker by its own text, so none may name anything outside.
 */
(function () {
  "use strict";
  const graphopt = (globalThis.graphopt = globalThis.graphopt || {});

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
  }

  /** Each slot near the weighted median of its neighbours, or below its fork, as far as those beside it leave room. */
  function coordinates(slots) {
    const { layers, above, below, width, strength, ways, forks, joins, gap } = slots;
    const count = forks.length;
    const at = new Float64Array(width.length);
    for (const layer of layers) {
      let left = 0;
      for (const slot of layer) {
        at[slot] = left + width[slot] / 2;
        left += width[slot] + gap;
      }
      for (const slot of layer) at[slot] -= (left - gap) / 2;
    }
    const settle = (layer, side, goals) => {
      const blocks = [];
      let offset = 0;
      layer.forEach((slot, k) => {
        if (k) offset += apart(layer[k - 1], slot);
        const goal = slot < count ? goals[slot] : -1;
        const near = side[slot].length ? median(side[slot]) : at[slot];
        const weight = strength[slot];
        let block = { sum: ((goal < 0 ? near : at[goal]) - offset) * weight, weight, slots: [[slot, offset]] };
        for (let left; (left = blocks[blocks.length - 1]) && left.sum * block.weight > block.sum * left.weight;) {
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
    straighten();
    return at;

    /** How far the centres of two neighbours in a layer must be apart. */
    function apart(left, right) {
      return (width[left] + width[right]) / 2 + gap;
    }

    /** Draws the bends of each edge in lines as long as the nodes beside them allow. */
    function straighten() {
      const beside = new Map();
      for (const layer of layers) layer.forEach((slot, k) => beside.set(slot, [layer[k - 1], layer[k + 1]]));
      const room = (slot) => {
        const [left, right] = beside.get(slot);
        return [
          left === undefined ? -1e9 : at[left] + apart(left, slot),
          right === undefined ? 1e9 : at[right] - apart(slot, right),
        ];
      };
      const done = new Set();
      for (const way of ways) {
        const own = way.filter((slot) => !done.has(slot));
        for (let from = 0; from < own.length;) {
          let [low, high] = room(own[from]);
          let to = from + 1;
          for (; to < own.length; to++) {
            const [left, right] = room(own[to]);
            if (Math.max(low, left) > Math.min(high, right)) break;
            low = Math.max(low, left);
            high = Math.min(high, right);
          }
          const places = own
            .slice(from, to)
            .map((slot) => at[slot])
            .sort((a, b) => a - b);
          const line = Math.min(high, Math.max(low, places[places.length >> 1]));
          for (const slot of own.slice(from, to)) ((at[slot] = line), done.add(slot));
          from = to;
        }
      }
    }

    /** The middle of weighted neighbours; of two equal halves their mean. */
    function median(near) {
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
  }

  graphopt.layoutParts = { ...graphopt.layoutParts, order, coordinates };
})();
