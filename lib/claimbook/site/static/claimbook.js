// Small help for pages that read well without it: mathematics in pieces, the filter of the claims table, and keyboard
// access to what scrolls.

// MathJax calls this instead of typesetting the whole page at once: formulas near the window come first, the others
// follow in pieces so short that the page stays at hand. MathJax.startup.promise waits for the last of them.
async function typesetInPieces() {
  measureFontsOnce(MathJax.startup.output);
  const waiting = new Set(document.querySelectorAll(".math"));
  const near = new Set();
  let seen;
  const firstLook = new Promise((resolve) => (seen = resolve));
  const watch = new IntersectionObserver(
    (entries) => {
      seen();
      for (const { target, isIntersecting } of entries)
        isIntersecting && waiting.has(target) ? near.add(target) : near.delete(target);
    },
    { rootMargin: "50% 0px" },
  );
  for (const formula of waiting) watch.observe(formula);
  const take = (formulas, n) => {
    const piece = [];
    for (const formula of formulas) if (piece.push(formula) === n) break;
    return piece;
  };
  const done = (formulas) => {
    for (const formula of formulas) {
      waiting.delete(formula);
      near.delete(formula);
      watch.unobserve(formula);
    }
    const cells = new Set(formulas.map((formula) => formula.closest("table.ledger td")));
    for (const cell of cells) if (cell) focusIfItScrolls(cell);
  };
  window.addEventListener("beforeprint", () => {
    if (waiting.size) MathJax.typeset([...waiting]);
    done([...waiting]);
  });
  const turn = () => new Promise((resolve) => setTimeout(resolve));
  if (waiting.size && !document.hidden) await firstLook;
  for (let n = 1; waiting.size; await turn()) {
    if (!near.size || take(near, 1)[0].getBoundingClientRect().top > innerHeight) showText();
    const piece = take(near.size ? near : waiting, n);
    const start = performance.now();
    await MathJax.typesetPromise(piece);
    done(piece);
    const spent = performance.now() - start;
    n = Math.max(1, Math.min(2 * n, 64, Math.floor((n * PIECE) / spent)));
  }
  showText();
}

// What MathJax asks the page about an inline formula depends on the font around it alone; it is asked once for each font,
// as every question has the browser lay out the page.
function measureFontsOnce(output) {
  const MEASURED = 110; // MathJax's STATE.METRICS
  const known = new Map();
  const fontOf = (box) => ((style) => `${style.fontSize} ${style.fontFamily}`)(getComputedStyle(box));
  const measure = output.getMetrics.bind(output);
  output.getMetrics = (document) => {
    const fresh = [...document.math].filter((math) => math.state() < MEASURED && math.start.node);
    const inline = fresh.filter((math) => !math.display).map((math) => [math, math.start.node.parentNode]);
    const fonts = inline.map(([math, box]) => [math, box, fontOf(box)]);
    for (const [math, , font] of fonts) {
      if (!known.has(font)) continue;
      const { em, ex, containerWidth, lineWidth, scale } = known.get(font);
      math.setMetrics(em, ex, containerWidth, lineWidth, scale);
      math.state(MEASURED);
    }
    if (fresh.some((math) => math.state() < MEASURED)) measure(document);
    for (const [math, box, font] of fonts)
      if (!known.has(font) && box.getClientRects().length) known.set(font, math.metrics); // a hidden box tells nothing
  };
}

// Text from the first formula on stays hidden, three seconds at most (the style sheet sees to that), until the formulas
// in the window are typeset: it would jump under the eyes of its reader.
let tellShown;
const textShown = new Promise((resolve) => (tellShown = resolve));
function showText() {
  document.documentElement.classList.remove("typesetting");
  tellShown();
}

const PIECE = 20; // milliseconds
if (window.MathJax) {
  window.MathJax.startup = { pageReady: typesetInPieces };
  window.MathJax.chtml = { adaptiveCSS: false }; // all rules at once: a rule that comes later restyles the whole page
}
if (!window.MathJax || !document.querySelector("article .math")) showText();

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
  reveal();
  textShown.then(reveal);
}

function whenTypeset(then) {
  window.addEventListener("load", () => (window.MathJax?.startup?.promise ?? Promise.resolve()).then(then));
}

// What is wider than its box scrolls inside it; a keyboard can scroll it only if it can be focused.
function focusIfItScrolls(box) {
  const scrolls = box.scrollWidth > box.clientWidth + 1 || (box.scrollHeight > box.clientHeight + 1 && getComputedStyle(box).overflowY !== "visible");
  if (scrolls) box.tabIndex = 0;
  else box.removeAttribute("tabindex");
}

function focusScrollers() {
  const boxes = "article pre, article div.math, article mjx-container[display='true'], article .cell_output > .output, .drawing, .ledger-scroll, .evidence-table, .table-wrapper, .pst-scrollable-table-container";
  const update = () => {
    document.querySelectorAll(boxes).forEach(focusIfItScrolls);
  };
  whenTypeset(update);
  window.addEventListener("resize", update);
}

filterClaims();
focusScrollers();
