// Colours the cores of the chips by the figure that is chosen, and tells of the one that is pointed at.
(() => {
  const data = JSON.parse(document.getElementById("cores").textContent);
  const map = document.getElementById("chips"), told = document.getElementById("core");
  const by = document.getElementById("by"), key = document.getElementById("key");
  const squares = [...map.querySelectorAll(".core")];
  let on = -1;

  const block = (core) => core[3] === null ? "outside the blocks" : `block ${core[3]}`;
  const tell = (number) => {
    if (on >= 0) squares[on].classList.remove("on");
    on = number;
    squares[on].classList.add("on");
    const core = data.cores[squares[on].dataset.n];
    const figures = data.figures.map((one, k) => `${one.name}: ${one.words[core[5][k]]}`);
    told.textContent = `Core ${core[1]} of chip ${core[0]}, mostly ${core[2]} ${core[3] === null ? block(core) : `of ${block(core)}`}. ` +
      `${figures.join("; ")}. Neurons of ${core[4]}.`;
  };
  const colour = () => {
    const k = by.selectedIndex - 2;
    key.textContent = "";
    // An entry of the key; where cores are told apart, pointing at it leaves only its own in colour.
    const entry = (fill, name, mine) => {
      const span = document.createElement("span"), mark = document.createElement("i");
      mark.className = "square";
      mark.style.background = fill;
      span.append(mark, name);
      key.append(span);
      if (!mine) return;
      const dim = (others) => squares.forEach((square) =>
        square.classList.toggle("dim", others && !mine(data.cores[square.dataset.n])));
      span.addEventListener("pointerenter", () => dim(true));
      span.addEventListener("pointerleave", () => dim(false));
    };
    const paint = (fill) => { for (const square of squares) square.style.fill = fill(data.cores[square.dataset.n]); };
    if (k === -2) {
      paint((core) => data.kinds[core[2]]);
      for (const [kind, fill] of Object.entries(data.kinds)) entry(fill, kind, (core) => core[2] === kind);
    } else if (k === -1) {
      paint((core) => core[3] === null ? data.outside : data.blocks[core[3]]);
      for (const [number, fill] of Object.entries(data.blocks)) entry(fill, `block ${number}`, (core) => String(core[3]) === number);
      if (data.cores.some((core) => core[3] === null)) entry(data.outside, "outside the blocks", (core) => core[3] === null);
    } else {
      const { words, shares } = data.figures[k];
      const shade = (which) => `var(--r${Math.round(8 * shares[which])})`;
      paint((core) => shade(core[5][k]));
      entry(shade(0), words[0]);
      entry(shade(shares.length - 1), words[words.length - 1]);
    }
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
