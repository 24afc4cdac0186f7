// Small help for pages that read well without it: the filter of the claims table, and keyboard access to what scrolls.

function filterClaims() {
  const form = document.querySelector("form.ledger-filter");
  const table = document.querySelector("table.ledger");
  if (!form || !table) return;
  const rows = [...table.tBodies[0].rows].map((row) => ({ row, text: row.textContent.toLowerCase() }));
  const found = form.querySelector("output");

  const apply = () => {
    const wanted = Object.fromEntries([...new FormData(form)].filter(([, value]) => value));
    const words = (wanted.text || "").toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const { row, text } of rows) {
      const fits =
        ["paper", "kind", "verdict", "core"].every((name) => !wanted[name] || row.dataset[name] === wanted[name]) &&
        words.every((word) => text.includes(word));
      row.hidden = !fits;
      shown += fits;
    }
    found.textContent = shown === 1 ? "1 claim" : `${shown} claims`;
    const query = new URLSearchParams(wanted).toString();
    history.replaceState(null, "", location.pathname + (query ? `?${query}` : "") + location.hash);
  };

  for (const [name, value] of new URLSearchParams(location.search)) {
    const field = form.elements[name];
    if (!field) continue;
    if (field.type === "checkbox") field.checked = value === field.value;
    else field.value = value;
  }
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  apply();

  // A link to a row shows it, whatever the filter; mathematics above it may have moved it.
  const reveal = () => {
    const row = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!row) return;
    row.hidden = false;
    row.scrollIntoView({ block: "center" });
  };
  window.addEventListener("hashchange", reveal);
  whenTypeset(reveal);
}

function whenTypeset(then) {
  window.addEventListener("load", () => (window.MathJax?.startup?.promise ?? Promise.resolve()).then(then));
}

// What is wider than its box scrolls inside it; a keyboard can scroll it only if it can be focused.
function focusScrollers() {
  const boxes = "article pre, article div.math, article mjx-container[display='true'], article .cell_output > .output, .ledger-scroll, .evidence-table, .table-wrapper, .pst-scrollable-table-container";
  const update = () => {
    for (const box of document.querySelectorAll(boxes)) {
      const scrolls = box.scrollWidth > box.clientWidth + 1 || (box.scrollHeight > box.clientHeight + 1 && getComputedStyle(box).overflowY !== "visible");
      if (scrolls) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };
  whenTypeset(update);
  window.addEventListener("resize", update);
}

filterClaims();
focusScrollers();
