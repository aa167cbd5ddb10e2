// Elements and numbers as text. Everything that comes from the payload goes in as text, never as HTML.
"use strict";
(function () {
  const graphopt = (window.graphopt = window.graphopt || {});

  /**
   * An element.
   * @param {string} tag
   * @param {Object<string, string|boolean|Function>} [attributes] functions listen to the event of that name
   * @param {...(Node|string|null)} children strings become text
   * @returns {HTMLElement}
   */
  function el(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === "function") made.addEventListener(name, value);
      else if (typeof value === "boolean") made.toggleAttribute(name, value);
      else made.setAttribute(name, value);
    }
    made.append(...children.filter((child) => child !== null));
    return made;
  }

  /** A labelled select of [value, text] pairs. `changed` gets the value. */
  function choice(label, options, changed) {
    const select = el("select", { change: () => changed(select.value) });
    for (const [value, text] of options) select.append(el("option", { value: String(value) }, text));
    return el("label", { class: "choice" }, label, select);
  }

  /** Up to six significant digits, without trailing zeros; whole numbers in full, very small ones with an exponent. */
  function plainNumber(value) {
    const digits = Math.abs(value) < 1e-3 ? 3 : 6;
    const shown = Number.isInteger(value) && Math.abs(value) < 1e15 ? value : Number(value.toPrecision(digits));
    return String(shown);
  }

  function scaled(value, suffix) {
    let [shown, name] = [value / 1e3, "k"];
    for (const larger of ["M", "G", "T"]) {
      if (Math.abs(shown) >= 999.95) [shown, name] = [shown / 1e3, larger];
    }
    return `${shown.toFixed(1)} ${name}${suffix}`;
  }

  function seconds(value) {
    const size = Math.abs(value);
    if (size >= 1 || size === 0) return `${value.toFixed(size ? 2 : 0)} s`;
    if (size >= 1e-4) return `${(1e3 * value).toFixed(size < 1e-2 ? 2 : 1)} ms`;
    return `${(1e6 * value).toFixed(1)} µs`;
  }

  const UNITS = {
    bytes: (value) => (Math.abs(value) < 1000 ? `${value} B` : scaled(value, "B")),
    seconds,
    dB: (value) => `${value.toFixed(1)} dB`,
    percent: (value) => `${value.toFixed(2)} %`,
    points: (value) => `${value.toFixed(2)} points`,
    count: (value) => (Math.abs(value) < 1000 ? plainNumber(value) : scaled(value, "")),
  };

  /**
   * A number as people read it; other values as they are, nothing for null.
   * @param {number|string|null} value
   * @param {string} [unit] one of the payload's units
   */
  function number(value, unit = "") {
    if (value === null || value === undefined) return "";
    if (typeof value !== "number") return String(value);
    return (UNITS[unit] || plainNumber)(value).replace(/^-/, "−");
  }

  /** Calls `show` once when `element` comes near the window; if `forPrint`, also when the page is printed. */
  function whenNear(element, show, forPrint = false) {
    let shown = false;
    const once = () => {
      if (shown) return;
      shown = true;
      watcher.disconnect();
      show();
    };
    const watcher = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && once(), {
      rootMargin: "600px",
    });
    watcher.observe(element);
    if (forPrint) window.addEventListener("beforeprint", once);
  }

  Object.assign(graphopt, { el, choice, number, whenNear });
})();
