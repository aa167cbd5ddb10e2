// What Chart.js has to know for each kind of chart. Colours are the theme's at the time of drawing.
"use strict";
(function () {
  const graphopt = (window.graphopt = window.graphopt || {});
  const { number, theme } = graphopt;

  const NAME = 42; // characters of an item's name beside its bar
  const SERIES = 5; // colours that page.css has
  const BAR = 17; // px
  const FEW = 8; // points of a scatter that are all named
  const color = (k) => theme.color(`series-${(k % SERIES) + 1}`);

  /** The end of a long name, which tells layers apart. */
  const cut = (name) => (name.length <= NAME ? name : `…${name.slice(1 - NAME)}`);

  function axis(title, extra = {}) {
    return {
      title: { display: title !== "", text: title, color: theme.color("muted") },
      ticks: { color: theme.color("muted"), maxRotation: 0, autoSkip: true, ...extra.ticks },
      grid: { color: theme.color("line"), display: extra.grid !== false },
      border: { color: theme.color("line") },
      type: extra.type,
      ...(extra.rest || {}),
    };
  }

  const scaleType = (logarithmic) => (logarithmic ? "logarithmic" : "linear");

  function common(legend) {
    return {
      animation: false,
      responsive: true,
      maintainAspectRatio: false,
      plugins: {
        legend: { display: legend, labels: { color: theme.color("fg"), boxHeight: 6, usePointStyle: true } },
        tooltip: { displayColors: false },
      },
    };
  }

  /** @param {object} data the payload's Bars @param {number[]} order places of items @param {function(number)} open */
  function bars(data, order, open) {
    const named = order.length <= 40; // with more bars the names don't fit: they are in the tooltips
    const options = common(data.series.length > 1);
    options.indexAxis = named ? "y" : "x";
    const values = axis(data.axis, { type: scaleType(data.logarithmic) });
    const items = axis("", { type: "category", grid: false, ticks: { display: named, autoSkip: false } });
    options.scales = named ? { x: values, y: items } : { x: items, y: values };
    options.interaction = { mode: "index", axis: named ? "y" : "x", intersect: false };
    options.onClick = (_event, hit) => hit.length && open(order[hit[0].index]);
    options.onHover = (event, hit) => {
      const leads = hit.length > 0 && data.nodes[order[hit[0].index]] !== "";
      event.native.target.style.cursor = leads ? "pointer" : "default";
    };
    options.plugins.tooltip.callbacks = {
      title: (hit) => data.items[order[hit[0].dataIndex]],
      label: (hit) => `${hit.dataset.label}: ${number(hit.raw)}`,
    };
    const sum = (k) => data.values.reduce((total, values) => total + Math.abs(values[k] || 0), 0);
    const front = data.series.map((_, k) => k).sort((a, b) => sum(a) - sum(b));
    return {
      height: named ? 56 + BAR * order.length * Math.max(1, data.series.length * 0.75) : 300,
      config: {
        type: "bar",
        data: {
          labels: order.map((i) => cut(data.items[i])),
          datasets: data.series.map((label, k) => ({
            label,
            data: order.map((i) => data.values[i][k]),
            backgroundColor: color(k),
            barPercentage: named ? 0.9 : 1,
            categoryPercentage: 0.85,
            grouped: named, // thin bars stand before each other, small ones in front
            order: front.indexOf(k),
          })),
        },
        options,
      },
    };
  }

  /** Text with a rim in the colour of the ground, legible in front of lines. */
  function write(ctx, text, left, bottom) {
    ctx.save();
    ctx.setLineDash([]);
    ctx.lineJoin = "round";
    ctx.lineWidth = 4;
    ctx.strokeStyle = theme.color("bg");
    ctx.strokeText(text, left, bottom);
    ctx.fillText(text, left, bottom);
    ctx.restore();
  }

  /** Vertical lines with their names at the top, one row each so that close ones stay legible. */
  function lines(marks) {
    return {
      id: "marks",
      afterDatasetsDraw(chart) {
        const { ctx, chartArea: area, scales } = chart;
        ctx.save();
        ctx.font = "12px system-ui, sans-serif";
        marks.forEach(([label, value], k) => {
          const x = scales.x.getPixelForValue(value);
          if (!(x >= area.left - 1 && x <= area.right + 1)) return;
          ctx.strokeStyle = ctx.fillStyle = color(k + 1);
          ctx.setLineDash(k % 2 ? [2, 3] : [6, 3]);
          ctx.lineWidth = 1.5;
          ctx.beginPath();
          ctx.moveTo(x, area.top);
          ctx.lineTo(x, area.bottom);
          ctx.stroke();
          const text = `${label}: ${number(value)}`;
          const width = ctx.measureText(text).width;
          write(ctx, text, x + 6 + width > area.right ? x - 6 - width : x + 6, area.top + 13.5 + 17 * k);
        });
        ctx.restore();
      },
    };
  }

  /** @param {object} data the payload's HistogramData @param {boolean} logarithmic whether counts are */
  function histogram(data, logarithmic) {
    const floor = logarithmic ? 0.5 : 0;
    const points = data.counts.map((count, i) => ({ x: data.edges[i], y: Math.max(count, floor) }));
    points.push({ x: data.edges[data.edges.length - 1], y: floor });
    const values = data.marks.map(([, value]) => value).concat(data.edges);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const margin = 0.02 * (high - low || 1);
    const options = common(false);
    options.interaction = { mode: "nearest", axis: "x", intersect: false };
    options.scales = {
      x: axis("value", {
        type: "linear",
        rest: { min: low - margin, max: high + margin },
        ticks: { includeBounds: false },
      }),
      y: axis("count", { type: scaleType(logarithmic), rest: { min: floor } }),
    };
    options.plugins.tooltip.callbacks = {
      title: ([hit]) => {
        const i = Math.min(hit.dataIndex, data.counts.length - 1);
        return `${number(data.edges[i])} to ${number(data.edges[i + 1])}`;
      },
      label: (hit) => `count ${number(data.counts[hit.dataIndex] ?? 0)}`,
    };
    return {
      height: 300,
      config: {
        type: "line",
        data: {
          datasets: [
            {
              data: points,
              stepped: "before",
              fill: { value: floor },
              pointRadius: 0,
              borderWidth: 1,
              borderColor: color(0),
              backgroundColor: `${color(0)}55`,
            },
          ],
        },
        options,
        plugins: [lines(data.marks)],
      },
    };
  }

  /** The names of marked points beside them; of all where there are few. */
  const names = {
    id: "names",
    afterDatasetsDraw(chart) {
      const { ctx, chartArea: area } = chart;
      const few = chart.data.datasets.reduce((sum, { data }) => sum + data.length, 0) <= FEW;
      ctx.save();
      chart.data.datasets.forEach((dataset, k) =>
        dataset.data.forEach((point, i) => {
          if (!point.mark && !few) return;
          const { x, y } = chart.getDatasetMeta(k).data[i];
          ctx.font = `${point.mark ? "600 " : ""}12px system-ui, sans-serif`;
          ctx.fillStyle = theme.color(point.mark ? "fg" : "muted");
          const width = ctx.measureText(point.label).width;
          const left = x > (area.left + area.right) / 2 ? x - 12 - width : x + 12;
          write(ctx, point.label, left, y < area.top + 16 ? y + 18 : y - 10);
        }),
      );
      ctx.restore();
    },
  };

  /** @param {object} data the payload's Scatter */
  function scatter(data) {
    const options = common(data.series.length > 1);
    options.interaction = { mode: "nearest", intersect: false };
    options.scales = {
      x: axis(data.x_axis, { type: scaleType(data.x_logarithmic), rest: { grace: "3%" } }),
      y: axis(data.y_axis, { type: scaleType(data.y_logarithmic), rest: { grace: "3%" } }),
    };
    options.plugins.tooltip.callbacks = {
      title: ([hit]) => hit.raw.label || hit.dataset.label,
      label: ({ raw }) => [`${data.x_axis}: ${number(raw.x)}`, `${data.y_axis}: ${number(raw.y)}`],
    };
    const datasets = data.series.map(([label, points, joined], k) => ({
      label,
      data: points,
      showLine: joined,
      borderColor: color(k),
      backgroundColor: color(k),
      borderWidth: 1.5,
      pointStyle: points.map((point) => (point.mark ? "rectRot" : ["circle", "rect", "triangle"][k % 3])),
      pointRadius: points.map((point) => (point.mark ? 8 : 4)),
      pointHoverRadius: 8,
    }));
    return { height: 340, config: { type: "scatter", data: { datasets }, options, plugins: [names] } };
  }

  graphopt.chartConfig = { bars, histogram, scatter };
})();
