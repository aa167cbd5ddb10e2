// Light, dark, or what the system has. Runs in the head, before anything is painted.
"use strict";
(function () {
  const graphopt = (window.graphopt = window.graphopt || {});
  const KEY = "graphopt-theme";
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const listeners = [];

  // A browser may refuse storage to files on disk; then the choice lasts as long as the page.
  function stored() {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null;
    }
  }

  function store(value) {
    try {
      localStorage.setItem(KEY, value);
    } catch {
      return;
    }
  }

  const CHOICES = ["auto", "light", "dark"];
  let chosen = CHOICES.includes(stored()) ? stored() : "auto";

  /** @returns {"light"|"dark"} what is shown */
  function current() {
    if (chosen === "auto") return system.matches ? "dark" : "light";
    return chosen;
  }

  function show(theme) {
    document.documentElement.dataset.theme = theme;
    for (const listener of listeners) listener(theme);
  }

  const apply = () => show(current());
  system.addEventListener("change", apply);
  window.addEventListener("beforeprint", () => show("light")); // paper is white
  window.addEventListener("afterprint", apply);
  apply();

  graphopt.theme = {
    current,
    /** @returns {"auto"|"light"|"dark"} */
    chosen: () => chosen,
    /** @param {"auto"|"light"|"dark"} value */
    choose(value) {
      chosen = value;
      store(value);
      apply();
    },
    /** @param {function("light"|"dark"): void} listener called at each change */
    onChange(listener) {
      listeners.push(listener);
    },
    /** The value of one of page.css's colours: color("accent"). */
    color: (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim(),
  };
})();
