/**
 * Puts parts of a visible graph into groups that are drawn as one node: bodies of control flow, name scopes, regions
 * that a step left alone, and chains of them.
 *
 * None but name scopes can make a cycle: a region's nodes are connected and have the same number of changed nodes above
 * them, and a chain grows only by a node's sole reader or by what lies between the two.
 */
(function () {
  "use strict";
  const graphopt = (globalThis.graphopt = globalThis.graphopt || {});
  /** Above so many nodes, unchanged parts are collapsed unless the user decides otherwise. */
  const COLLAPSE_ABOVE = 200;
  const SMALLEST_GROUP = 3;
  const MOST_OPERATORS_NAMED = 3;

  /** Edges of a visible graph as sets of neighbours: {above, below}, id → Set of ids. */
  function neighbours(visible) {
    const above = new Map();
    const below = new Map();
    for (const id of visible.nodes.keys()) {
      above.set(id, new Set());
      below.set(id, new Set());
    }
    for (const { source, target } of visible.edges) {
      if (source === target) continue;
      below.get(source).add(target);
      above.get(target).add(source);
    }
    return { above, below };
  }

  /**
   * The graph with each of these groups as one node.
   * @param {object} visible
   * @param {Map<string, string>} groupOf id of a node → id of its group, which may be a node of the graph
   * @param {(id: string, members: object[]) => {title?: string}} describe what a new group is called
   */
  function contract(visible, groupOf, describe) {
    if (!groupOf.size) return visible;
    const members = new Map();
    for (const [id, node] of visible.nodes) {
      const group = groupOf.get(id);
      if (group === undefined) continue;
      if (!members.has(group)) members.set(group, []);
      if (id !== group) members.get(group).push(node);
    }
    const nodes = new Map();
    for (const [id, node] of visible.nodes) {
      const group = groupOf.get(id);
      if (group === undefined || group === id) {
        nodes.set(id, members.has(id) ? holding(node, members.get(id)) : node);
      } else if (!nodes.has(group) && !visible.nodes.has(group)) {
        nodes.set(group, holding({ ...describe(group, members.get(group)), id: group }, members.get(group)));
      }
    }
    const end = (id) => (groupOf.has(id) ? groupOf.get(id) : id);
    const edges = [];
    const seen = new Map();
    for (const edge of visible.edges) {
      const source = end(edge.source);
      const target = end(edge.target);
      if (source === target) continue;
      const key = `${source}\n${target}\n${edge.tensor}`;
      const twin = groupOf.has(edge.source) || groupOf.has(edge.target) ? seen.get(key) : undefined;
      if (twin === undefined) {
        const own = { ...edge, source, target };
        seen.set(key, own);
        edges.push(own);
      }
    }
    const where = new Map([...visible.where].map(([name, id]) => [name, end(id)]));
    return { nodes, edges, where };
  }

  /** A node that stands for others: counts what is inside, and says whether any of it has changed. */
  function holding(node, inside) {
    const members = [...(node.members || [])];
    for (const each of inside) members.push(...(each.kind === "group" ? each.members : [each]));
    const touched = members.filter((member) => member.change).length;
    const own = node.places || [];
    return {
      kind: "group",
      subtitle: "",
      precision: commonPrecision(members),
      scope: members[0] ? members[0].scope : [],
      places: own,
      ...node,
      change: node.change || (touched ? "changed" : ""),
      members,
      touched,
    };
  }

  function commonPrecision(members) {
    const found = new Set(members.map((member) => member.precision).filter(Boolean));
    return found.size === 1 ? [...found][0] : found.size ? "mixed" : "";
  }

  /** "Conv ×4, Relu ×4 …": operators by how often they occur. */
  function operators(members) {
    const counts = new Map();
    for (const { title } of members) counts.set(title, (counts.get(title) || 0) + 1);
    const sorted = [...counts].sort((a, b) => b[1] - a[1]);
    const named = sorted.slice(0, MOST_OPERATORS_NAMED).map(([op, count]) => (count > 1 ? `${op} ×${count}` : op));
    return named.join(", ") + (sorted.length > MOST_OPERATORS_NAMED ? " …" : "");
  }

  function described(members) {
    const inside = members.flatMap((member) => (member.kind === "group" ? member.members : [member]));
    return { title: `${inside.length} nodes`, subtitle: operators(inside) };
  }

  /** Bodies of If, Loop and Scan are inside their node until it is opened. */
  function foldBodies(visible, opened) {
    const groupOf = new Map();
    for (const [id, node] of visible.nodes) {
      const hidden = node.scope.find((owner) => !opened.has("n:" + owner) && visible.nodes.has("n:" + owner));
      if (hidden !== undefined) {
        groupOf.set(id, "n:" + hidden);
        groupOf.set("n:" + hidden, "n:" + hidden);
      }
    }
    return contract(visible, groupOf, (id, members) => described(members));
  }

  /** What separates the scopes in a model's names: "/" in most of PyTorch's, "." in others; "" where there are none. */
  function separator(names) {
    const count = (mark) => names.filter((name) => name.slice(1).includes(mark)).length;
    return ["/", "."].find((mark) => count(mark) * 2 > names.length) || "";
  }

  /** Nodes of one name scope are one group until it is opened; then those of the scopes within. */
  function groupScopes(visible, opened) {
    const plain = [...visible.nodes.values()].filter((node) => node.places.length);
    const mark = separator(plain.map((node) => node.subtitle || node.id.slice(2)));
    if (!mark) return visible;
    const counts = new Map();
    const scopes = plain.map((node) => {
      const parts = node.id.slice(2).split(mark);
      const prefixes = parts
        .slice(0, -1)
        .map((_, k) => parts.slice(0, k + 1).join(mark))
        .filter(Boolean);
      for (const prefix of prefixes) counts.set(prefix, (counts.get(prefix) || 0) + 1);
      return { id: node.id, prefixes };
    });
    const groupOf = new Map();
    for (const { id, prefixes } of scopes) {
      // A scope that nearly everything is in says nothing.
      const closed = prefixes.find((p) => !opened.has("s:" + p) && counts.get(p) < 0.9 * plain.length);
      if (closed !== undefined && counts.get(closed) > 1) groupOf.set(id, "s:" + closed);
    }
    return contract(visible, groupOf, (id, members) => ({ ...described(members), scopeName: id.slice(2) }));
  }

  /** What may be hidden in a group: nodes that the step left alone, and that aren't the model's inputs and outputs. */
  function quiet(node) {
    return !node.change && (node.kind === "node" || node.kind === "pair" || node.kind === "constant");
  }

  /** Connected unchanged parts, away from changed nodes by more than one edge. */
  function collapseRegions(visible, opened) {
    const { above, below } = neighbours(visible);
    const kept = new Set();
    for (const [id, node] of visible.nodes) {
      if (quiet(node)) continue;
      kept.add(id);
      if (node.change) for (const set of [above, below]) set.get(id).forEach((other) => kept.add(other));
    }
    const level = levels(visible, above, below, kept);
    const groupOf = new Map();
    const seen = new Set(kept);
    for (const start of visible.nodes.keys()) {
      if (seen.has(start)) continue;
      seen.add(start);
      const part = [start];
      for (const id of part) {
        for (const other of [...above.get(id), ...below.get(id)]) {
          if (seen.has(other) || level.get(other) !== level.get(id)) continue;
          seen.add(other);
          part.push(other);
        }
      }
      if (part.length >= SMALLEST_GROUP && !opened.has("r:" + start))
        part.forEach((id) => groupOf.set(id, "r:" + start));
    }
    return contract(visible, groupOf, (id, members) => described(members));
  }

  /** The most nodes of `kept` on any way to a node. */
  function levels(visible, above, below, kept) {
    const waiting = new Map([...above].map(([id, set]) => [id, set.size]));
    const level = new Map([...visible.nodes.keys()].map((id) => [id, 0]));
    const ready = [...visible.nodes.keys()].filter((id) => !waiting.get(id));
    for (const id of ready) {
      const own = level.get(id) + (kept.has(id) ? 1 : 0);
      for (const other of below.get(id)) {
        level.set(other, Math.max(level.get(other), own));
        waiting.set(other, waiting.get(other) - 1);
        if (!waiting.get(other)) ready.push(other);
      }
    }
    return level;
  }

  /** Chains of unchanged nodes, with what branches off and joins again within, up to a size that leaves an overview. */
  function collapseChains(visible, opened, largest, alike) {
    const { above, below } = neighbours(visible);
    const inside = new Map([...visible.nodes].map(([id, node]) => [id, quiet(node) ? [id] : null]));
    const only = (set) => (set.size === 1 ? set.values().next().value : undefined);
    const fits = (a, b) =>
      inside.get(a) &&
      inside.get(b) &&
      inside.get(a).length + inside.get(b).length <= largest &&
      alike(visible.nodes.get(a), visible.nodes.get(b));
    const merge = (upper, lower) => {
      for (const id of below.get(lower)) {
        above.get(id).delete(lower);
        if (id !== upper) (above.get(id).add(upper), below.get(upper).add(id));
      }
      for (const id of above.get(lower)) {
        below.get(id).delete(lower);
        if (id !== upper) (below.get(id).add(upper), above.get(upper).add(id));
      }
      inside.set(upper, [...inside.get(upper), ...inside.get(lower)]);
      inside.delete(lower);
    };
    const grow = (id) => {
      for (const next of below.get(id)) {
        if (!fits(id, next) || only(above.get(next)) !== id) continue;
        const onward = only(below.get(next));
        if (below.get(id).size === 1 || (onward !== undefined && below.get(id).has(onward)))
          return (merge(id, next), true);
      }
      return false;
    };
    for (let again = true; again;) {
      again = false;
      for (const id of visible.nodes.keys()) while (inside.get(id) && grow(id)) again = true;
    }
    const groupOf = new Map();
    for (const [id, part] of inside) {
      if (!part || part.length < SMALLEST_GROUP || opened.has("k:" + id)) continue;
      part.forEach((member) => groupOf.set(member, "k:" + id));
    }
    return contract(visible, groupOf, (id, members) => described(members));
  }

  /**
   * The graph with what the options and its size ask for in groups.
   * @param {object} visible as `visibleStep` makes it
   * @param {{scopes: boolean, collapse: ?boolean, byPrecision: boolean, opened: Set<string>}} options a `collapse` of
   *   null asks the size
   */
  function groupVisible(visible, options) {
    const { opened } = options;
    let result = foldBodies(visible, opened);
    if (options.scopes) result = groupScopes(result, opened);
    const collapse = options.collapse === null ? result.nodes.size > COLLAPSE_ABOVE : options.collapse;
    if (collapse) {
      const largest = Math.max(24, Math.ceil(result.nodes.size / 40));
      const changed = [...result.nodes.values()].some((node) => node.change);
      const regions = changed ? collapseRegions(result, opened) : result;
      // Chains also where only an opened region is large: whether there are any must not depend on what is open.
      const alike = options.byPrecision ? (a, b) => a.precision === b.precision : () => true;
      result = collapseChains(regions, opened, largest, alike);
    }
    return { ...result, collapsed: collapse };
  }

  graphopt.groupVisible = groupVisible;
  graphopt.scopeSeparator = separator;
  if (typeof module !== "undefined") module.exports = { groupVisible, scopeSeparator: separator };
})();
