// Colours the cores of the chips by the figure that is chosen, and tells of the one that is pointed at.
(() => {
  const data = JSON.parse(document.getElementById("cores").textContent);
  const map = document.getElementById("chips"), told = document.getElementById("core");
  const by = document.getElementById("by"), key = document.getElementById("key");
  const squares = [...map.querySelectorAll(".core")];
  const figure = (value) => value.toLocaleString("en", { maximumSignificantDigits: 3 });
  let on = -1;

  const block = (core) => core[3] === null ? "outside the blocks" : `block ${core[3]}`;
  const tell = (number) => {
    if (on >= 0) squares[on].classList.remove("on");
    on = number;
    squares[on].classList.add("on");
    const core = data.cores[squares[on].dataset.n];
    const figures = data.figures.map((name, k) => `${name}: ${figure(core[5][k])}`);
    told.textContent = `Core ${core[1]} of chip ${core[0]}, mostly ${core[2]} ${core[3] === null ? block(core) : `of ${block(core)}`}. ` +
      `${figures.join("; ")}. Neurons of ${core[4]}.`;
  };
  const colour = () => {
    const k = by.selectedIndex - 2;
    key.textContent = "";
    const entry = (fill, name) => {
      const span = document.createElement("span"), mark = document.createElement("i");
      mark.className = "square";
      mark.style.background = fill;
      span.append(mark, name);
      key.append(span);
    };
    if (k === -2) {
      for (const square of squares) square.style.fill = data.kinds[data.cores[square.dataset.n][2]];
      for (const [kind, fill] of Object.entries(data.kinds)) entry(fill, kind);
      return;
    }
    const value = (core) => k === -1 ? (core[3] ?? -1) : core[5][k];
    const values = data.cores.map(value), least = Math.min(...values), most = Math.max(...values);
    const shade = (v) => `var(--r${most > least ? Math.round(8 * (v - least) / (most - least)) : 4})`;
    for (const square of squares) square.style.fill = shade(value(data.cores[square.dataset.n]));
    entry(shade(least), k === -1 && least < 0 ? "outside the blocks" : figure(least));
    entry(shade(most), figure(most));
  };

  squares.forEach((square, number) => square.addEventListener("pointerenter", () => tell(number)));
  map.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    tell(Math.min(Math.max(on + step, 0), squares.length - 1));
  });
  by.addEventListener("change", colour);
  document.getElementById("traffic").addEventListener("change", (event) => {
    map.querySelector(".arrows").style.display = event.target.checked ? "" : "none";
  });
  // What is printed has everything but the rows of other machines.
  addEventListener("beforeprint", () => {
    for (const one of document.querySelectorAll("section > details")) one.open = true;
  });
  // A link to a part that is folded opens it.
  const unfold = () => {
    const part = location.hash && document.querySelector(`${location.hash} > details`);
    if (part) part.open = true;
  };
  addEventListener("hashchange", unfold);
  unfold();
  document.querySelector(".choose").hidden = false;
  colour();
})();
