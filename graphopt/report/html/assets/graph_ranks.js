/**
 * Parts of the layout that look at the whole graph: what to turn round, ranks, and where branches fork and join.
 *
 * Each function runs in the worker by its own text, so none may name anything outside. Edges are pairs of places.
 */
(function () {
  "use strict";
  const graphopt = (globalThis.graphopt = globalThis.graphopt || {});

  /** Which edges to turn round so that there is no cycle: those that a depth-first search finds to go back. */
  function backEdges(size, all) {
    const out = Array.from({ length: size }, () => []);
    all.forEach(([source], k) => out[source].push(k));
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
        } else if (state[all[next][1]] === 1) {
          back[next] = 1;
        } else if (!state[all[next][1]]) {
          state[all[next][1]] = 1;
          stack.push([all[next][1], 0]);
        }
      }
    }
    return back;
  }

  /** Ranks from 0: longest paths from above. Inputs, and what isn't below one, go down to just above a reader. */
  function longestPaths(size, all, inputs) {
    const below = Array.from({ length: size }, () => []);
    const waiting = new Int32Array(size);
    for (const [a, b] of all) (below[a].push(b), waiting[b]++);
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
    const fed = Array.from(inputs);
    for (const n of queue) if (fed[n]) for (const other of below[n]) fed[other] = true;
    for (const n of [...queue].reverse()) {
      if (below[n].length && (source[n] || !fed[n])) {
        rank[n] = below[n].reduce((low, other) => Math.min(low, rank[other]), 1e9) - 1;
      }
    }
    return { ranks: rank, sorted: queue, fed };
  }

  /** For each node the last one that all ways to it pass; −1 for none. */
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
    return last;
  }

  graphopt.layoutParts = { ...graphopt.layoutParts, backEdges, longestPaths, dominators };
})();
