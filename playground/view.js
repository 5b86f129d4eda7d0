// The playground's view: it draws what the kernel sends and sends what the learner does. It keeps no state of its own.

// Okabe and Ito's colours, which remain distinct with a colour-vision deficiency.
const CLASS_COLORS = ["#D55E00", "#0072B2"];
const TEST = "#009E73", TWIN = "#CC79A7";
const FONT = "12px system-ui, sans-serif";

const GROUPS = {
  Data: ["data", "noise", "features"],
  Network: ["depth", "width", "activation", "dropout", "init_scale"],
  Training: ["reduction", "optimizer", "lr", "batch_size", "weight_decay"],
  Company: ["bug"],
};
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value !== undefined) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

const bytes = (view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
const floats = (view) => new Float32Array(bytes(view).slice().buffer);
const shorts = (view) => new Int16Array(bytes(view).slice().buffer);
const percent = (value) => (value === null ? "–" : `${(100 * value).toFixed(1)} %`);
const short = (value) => (value === null ? "–" : String(+value.toPrecision(5)));

// What stands between backticks is code.
const withCode = (text) => text.split("`").map((part, i) => (i % 2 ? element("code", {}, part) : part));

// A number as Python writes it.
function written(value) {
  if (typeof value !== "number" || value === 0 || Math.abs(value) >= 1e-4) return String(value);
  return value.toExponential().replace(/e-(\d)$/, "e-0$1");
}

function render({ model, el }) {
  const id = `diy-lab-${Math.random().toString(36).slice(2)}`;
  const recorded = Boolean(model.get("recorded"));
  let drawn = 0, scheduled = false, cursor = null, token = 0, handled = 0, seen = 0;
  let visible = false, lost = false, asked = null, heard = performance.now(), drag = null, taken = null;

  const send = (action, ...args) => {
    try {
      model.send({ action, arguments: args });
    } catch {
      return showLost();
    }
    if (action === "seen") return;
    asked ??= performance.now();
    root.dataset.waiting = "true";
  };

  // By its token the answer to the newest change is known.
  const next = (last) => Math.max(Date.now(), last + 1);
  const set = (name, value) => send("set", name, value, token = next(token));

  // The parts

  const button = (action, text, title, pressed = () => send(action)) =>
    element("button", { "data-action": action, title, onclick: pressed }, text);
  const part = (name, attributes = {}) => element("canvas", { class: name, role: "img", "data-part": name, ...attributes });
  const box = (name, text, changed, kind = "setting") => {
    const input = element("input", { type: "checkbox", [`data-${kind}`]: name, onchange: () => changed(input.checked) });
    return [input, element("label", {}, input, text)];
  };
  const play = button("play", "", undefined, () => send(playing() ? "pause" : "play"));
  const numbers = {};
  const number = (name, text) => {
    numbers[name] = element("strong", { "data-number": name });
    return element("span", {}, `${text} `, numbers[name]);
  };
  const status = element("p", { class: "status", role: "status", "aria-live": "polite" });
  const controls = {};
  const plane = part("plane", recorded ? {} : {
    tabindex: 0, role: "application",
    onpointerdown: takeHold, onpointermove: pull, onpointerup: letGo, onkeydown: keyOnPlane,
    onpointercancel: () => { drag = null; draw(); },
    onfocus: () => draw(), onblur: putBack,
  });
  const where = element("p", { class: "hint where", role: "status", "aria-live": "polite" });
  const legend = element("p", { class: "hint" });
  const loss = part("loss"), layers = part("layers");
  const undo = button("undo", "Undo", "take back the last change to your points");
  const clear = button("clear", "Remove mine", "remove all the points you added");
  const classes = [0, 1].map((label) =>
    element("label", { class: `class${label}` },
      element("input", { type: "radio", name: `${id}-class`, value: label, checked: label === 1 }),
      `${label ? "■" : "●"} class ${label}`));
  const [showTest, showTestLabel] = box("show_test", " show test points", (on) => set("show_test", on));
  const [discretize, discretizeLabel] = box("discretize", " discretize", (on) => set("discretize", on));
  const [twin, twinLabel] = box("twin", "", (on) => send("twin", on));
  const twinName = element("span");
  twinLabel.append(twinName);
  const twinText = element("span", { class: "hint", "data-number": "twin" });
  const seed = button("seed", "", "other data, weights and order (in code: seed)", () => set("seed", model.get("settings").seed + 1));
  const moment = element("input", {
    type: "range", min: 0, value: 0, "data-setting": "moment", "aria-label": "moment of the recorded run",
    oninput: () => send("go", +moment.value),
  });

  // What can be unfolded
  function fold(name, closed, opened, ...children) {
    const panel = element("div", { class: "panel", hidden: true }, ...children);
    const toggle = button(name, closed, undefined, () => {
      panel.hidden = !panel.hidden;
      toggle.textContent = panel.hidden ? closed : opened;
      toggle.setAttribute("aria-expanded", String(!panel.hidden));
      send("unfold", name, !panel.hidden, id);
    });
    toggle.setAttribute("aria-expanded", "false");
    return [toggle, panel];
  }
  const copier = (source, what) => {
    const said = element("span", { class: "hint", role: "status" });
    const copy = button(`copy-${what}`, "Copy", undefined, async () => {
      try {
        await navigator.clipboard.writeText(source.textContent);
        said.textContent = playing() && !recorded ? "Copied, while the run goes on." : "Copied.";
      } catch {
        getSelection().selectAllChildren(source);
        said.textContent = "Selected: press Ctrl+C.";
      }
      setTimeout(() => { said.textContent = ""; }, 3000);
    });
    return [copy, said];
  };
  const code = element("pre", { tabindex: 0, role: "group", "aria-label": "the program of this run" });
  const [codeButton, codePanel] = fold("code", "Show the code", "Hide the code",
    element("div", { class: "row" }, element("strong", {}, "The program of this run"), ...copier(code, "code")), code);
  const line = element("code", { tabindex: 0, role: "group", "aria-label": "the line that restores what is on screen" });
  const network = part("network", { onclick: takeWeight });
  const [byGradient, byGradientLabel] = box("by-gradient", " show the last step's gradients instead of the weights", draw);
  const place = ["layer", "unit", "input"].map((name, i) => element(i ? "input" : "select", {
    ...(i ? { type: "number", min: i === 2 ? -1 : 0, value: 0 } : {}), "data-hand": name, onchange: hold, onblur: () => draw(),
  }));
  const turn = element("input", {
    type: "range", min: -3, max: 3, step: 0.01, "data-hand": "value", "aria-label": "the weight in hand",
    oninput: () => send("turn", +turn.value, handled = next(handled)),
  });
  const handText = element("p", { class: "hint", "data-number": "hand", role: "status" });
  const slope = part("slope");
  const [insideButton, insidePanel] = fold("inside", "Look inside", "Hide the inside",
    element("div", { class: "row" }, byGradientLabel),
    network,
    element("div", { class: "row", role: "group", "aria-label": "a weight in hand" }, "Take a weight in hand: ",
      ...place.map((part, i) => element("label", {}, ["leading to ", "unit ", "from input (−1: bias) "][i], part)), turn),
    handText, slope);
  const storyLook = element("p", {});
  const storyText = element("details", {}, element("summary", {}, "What is wrong? (Guess first.)"), element("p", {}));
  const answers = element("ul", { "data-part": "answers" });
  const story = element("div", { class: "panel", "data-part": "story", hidden: true },
    element("strong", {}, "A bug for company"), storyLook, storyText,
    button("ask_checks", "Which check would see it?", "run each kind of check on it"), answers);

  const root = element("div", { class: "diy-lab", role: "group", "aria-label": "Playground" },
    element("div", { class: "row" },
      element("div", { class: "buttons" }, play,
        ...(recorded ? [element("label", {}, "Moment ", moment)] : [
          button("step", "Step", "one step on one mini-batch"),
          button("epoch", "Epoch", "to the end of the epoch"),
          button("reset", "Reset", "back to the initial weights"), seed])),
      ...(recorded ? [] : [element("label", {}, "Speed ", select("speed"))]),
      element("div", { class: "numbers" },
        number("epoch", "epoch"), number("train", "train error"), number("test", "test error"))),
    status,
    element("div", { class: "stage" },
      element("div", { class: "controls" },
        ...Object.entries(GROUPS).map(([name, fields]) => [name, fields.filter((field) => choices(field))])
          .filter(([, fields]) => fields.length).map(([name, fields]) =>
            element("fieldset", { "data-group": name }, element("legend", {}, name), ...fields.map(field)))),
      element("div", { class: "scene" }, plane,
        ...(recorded ? [] : [element("div", { class: "row tools" },
          element("span", { role: "radiogroup", "aria-label": "class of the points you add" }, "Add ", ...classes), undo, clear)]),
        where),
      element("div", { class: "charts" }, loss, layers)),
    element("div", { class: "row" },
      ...(recorded ? [] : [showTestLabel]), discretizeLabel, ...(recorded ? [] : [twinLabel]), twinText),
    legend,
    story,
    ...(recorded ? [] : [
      element("div", { class: "row" }, insideButton, codeButton,
        button("save", "Save PNG", "plane, loss and histograms, as a file", () => send("save", "png")),
        button("save", "Save GIF", "the run so far, as a film", () => send("save", "gif")))]),
    element("div", { class: "row line" }, recorded ? "This line trains it in JupyterLab: " : "This line restores it: ", line, ...copier(line, "line")),
    ...(recorded ? [] : [insidePanel, codePanel]));
  // Keys pressed here are not JupyterLab's shortcuts; it looks for this mark on the focused element itself.
  for (const node of root.querySelectorAll("button, canvas, code, input, pre, select, summary")) {
    node.setAttribute("data-lm-suppress-shortcuts", "true");
  }
  el.append(root);

  function select(name, attributes = {}) {
    const node = element("select", { "data-setting": name, ...attributes, onchange: () => set(name, choices(name)[node.selectedIndex]) });
    controls[name] = { node, show: (value) => {
      if (node.options.length !== choices(name).length) {
        node.replaceChildren(...choices(name).map((choice) => element("option", {}, written(choice))));
      }
      node.selectedIndex = choices(name).indexOf(value);
    } };
    return node;
  }

  function field(name) {
    const [text, about] = model.get("labels")[name], title = `${about} (in code: ${name})`;
    const labelled = (...parts) => element("label", { class: "field", title }, element("span", { class: "name" }, text), ...parts);
    if (name === "features") return features(text, title);
    if (typeof choices(name)[0] === "string") return labelled(select(name, { "aria-description": title }));
    const output = element("span", { class: "value" });
    const input = element("input", {
      type: "range", min: 0, step: 1, "data-setting": name, "aria-label": text, "aria-description": title,
      oninput: () => { controls[name].label(); set(name, choices(name)[+input.value]); },
    });
    controls[name] = {
      node: input,
      show: (value) => {
        input.max = choices(name).length - 1;
        input.value = choices(name).indexOf(value);
        controls[name].label();
      },
      label: () => {
        output.textContent = written(choices(name)[+input.value]);
        input.setAttribute("aria-valuetext", output.textContent);
      },
    };
    return labelled(input, output);
  }

  function features(text, title) {
    const chosen = () => choices("features").filter((_, i) => boxes[i][0].checked);
    const boxes = choices("features").map((name) => box(name, name, () => set("features", chosen()), "feature"));
    controls.features = { show: (value) => boxes.forEach(([input], i) => { input.checked = value.includes(choices("features")[i]); }) };
    return element("div", { class: "features", role: "group", "aria-label": text, title }, ...boxes.map(([, label]) => label));
  }

  function choices(name) { return model.get("choices")[name]; }
  function playing() { return model.get("status").playing; }

  // Points: by mouse and by keyboard

  function edge() { return model.get("points").edge; }
  function inside(value) { return Math.max(-edge(), Math.min(edge(), value)); }
  function ownAt([x, y]) {
    const own = model.get("points").own, near = own.map(([px, py]) => Math.hypot(px - x, py - y));
    const best = near.indexOf(Math.min(...near));
    return near[best] < 0.08 ? own[best] : null;
  }
  function placeOf(event) {
    const frame = plane.getBoundingClientRect();
    return [((event.clientX - frame.left) / frame.width * 2 - 1) * edge(), (1 - (event.clientY - frame.top) / frame.height * 2) * edge()];
  }
  function add(at) { send("add", ...at.map(inside), classes[1].querySelector("input").checked ? 1 : 0); }

  function takeHold(event) {
    if (event.button) return;
    const at = placeOf(event);
    drag = { point: ownAt(at), at, moved: false };
    plane.setPointerCapture(event.pointerId);
  }
  function pull(event) {
    if (!drag) return;
    const at = placeOf(event);
    drag.moved ||= Math.hypot(at[0] - drag.at[0], at[1] - drag.at[1]) > 0.03;
    if (drag.point && drag.moved) { drag.to = at; draw(); }
  }
  function letGo(event) {
    if (!drag) return;
    const { point, moved } = drag, at = placeOf(event), out = at.some((value) => Math.abs(value) > edge());
    drag = null;
    if (!point) { if (!out) add(at); } else if (out) send("remove", point);
    else if (moved) send("move", point, ...at);
    else say(`Your point of class ${point[2]}: drag it to move it, or out of the plane to remove it.`);
    draw();
  }

  function keyOnPlane(event) {
    const key = event.key.toLowerCase(), own = taken ?? (cursor && ownAt(cursor));
    if (MOVES[event.key]) {
      const step = edge() / (event.shiftKey ? 5 : 25);
      cursor = (cursor || [0, 0]).map((value, i) => inside(value + step * MOVES[event.key][i]));
    } else if (key === "enter" || key === " ") {
      cursor ??= [0, 0];
      if (taken) {
        send("move", taken, ...cursor);
        taken = null;
        say("");
      } else add(cursor);
    } else if (key === "delete" || key === "backspace") {
      if (own) send("remove", own);
      say(own ? "" : "None of your points is at the cross.");
      taken = null;
    } else if (key === "escape" && taken) {
      putBack();
    } else if (key === "m" && own) {
      taken = own;
    } else if (key === "z" && (event.ctrlKey || event.metaKey)) {
      send("undo");
    } else return;
    event.preventDefault();
    if (cursor && (MOVES[event.key] || key === "m")) {
      const own = ownAt(cursor);
      say(`Cross at (${cursor.map((value) => value.toFixed(2)).join(", ")})`
        + (taken ? ": Enter puts the point down." : own ? `, on your point of class ${own[2]}` : ""));
    }
    draw();
  }
  function putBack() {
    if (taken) say("The point stays where it was.");
    taken = null;
    draw();
  }
  function say(text) { where.textContent = text; }

  // Drawing. The colours follow the theme.

  let theme = null;
  function readTheme() {
    const style = getComputedStyle(root), color = (name) => style.getPropertyValue(name).trim();
    const rgb = (name) => color(name).match(/[0-9a-f]{2}/gi).map((part) => parseInt(part, 16));
    theme = {
      ink: color("--ink"), grey: color("--grey"), line: color("--grid"), activation: color("--activation"), gradient: color("--gradient"),
      paper: rgb("--paper"), surface: [rgb("--class0"), rgb("--class1")],
    };
  }

  function pen(canvas) {
    const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.font = FONT;
    const write = (text, x, y, align = "left", color = theme.ink) => {
      Object.assign(context, { textAlign: align, fillStyle: color });
      context.fillText(text, x, y);
    };
    const stroke = (points, style = {}) => {
      Object.assign(context, { strokeStyle: theme.ink, lineWidth: 1 }, style);
      context.setLineDash(style.dash || []);
      context.beginPath();
      points.forEach((point, i) => point && context[points[i - 1] ? "lineTo" : "moveTo"](...point));  // null is a gap
      context.stroke();
      context.setLineDash([]);
    };
    return { context, width, height, write, stroke };
  }

  // Nothing is drawn out of sight, nor reported as seen.
  function draw() {
    if (scheduled || !visible) return;
    scheduled = true;
    requestAnimationFrame(() => {
      scheduled = false;
      if (!root.isConnected || !root.clientWidth) return;
      if (!theme) readTheme();
      drawPlane();
      drawLoss();
      drawLayers();
      if (!insidePanel.hidden && model.get("inside").columns) { drawInside(); showHand(); }
      root.dataset.frames = ++drawn;
      const { number } = model.get("frame");
      if (number - seen >= 15 || number < seen) send("seen", seen = number);
    });
  }

  const small = document.createElement("canvas");
  // Paints a grid of values in -32767..32767: the class's colour, the stronger the surer. Undecided, or no number, is 0.
  function paint(context, values, size, x, y, width, whole) {
    small.width = small.height = size;
    const image = new ImageData(size, size);
    values.forEach((value, i) => {
      const share = whole ? Math.abs(Math.sign(value)) : Math.min(1, Math.abs(value) / 26000), color = theme.surface[value > 0 ? 1 : 0];
      for (let c = 0; c < 3; c++) image.data[4 * i + c] = theme.paper[c] + share * (color[c] - theme.paper[c]);
      image.data[4 * i + 3] = 255;
    });
    small.getContext("2d").putImageData(image, 0, 0);
    context.imageSmoothingEnabled = !whole;
    context.drawImage(small, x, y, width, width);
  }

  function drawPlane() {
    const { context, width, stroke } = pen(plane), frame = model.get("frame"), size = frame.size;
    const values = shorts(frame.surface);
    paint(context, values, size, 0, 0, width, discretize.checked);
    if (frame.twin_surface.byteLength) {
      stroke(boundary(shorts(frame.twin_surface), size, width / size), { strokeStyle: TWIN, lineWidth: 1.5, dash: [5, 4] });
    }
    stroke(boundary(values, size, width / size), { lineWidth: 1.5 });
    drawPoints(context, width);
    if (drag?.to) dot(context, ...position(...drag.to, width), drag.point[2], 2 * width / 115, theme.ink);
    if (cursor && document.activeElement === plane) {
      const [x, y] = position(...cursor, width);
      stroke([[x - 10, y], [x + 10, y]], { lineWidth: 2 });
      stroke([[x, y - 10], [x, y + 10]], { lineWidth: 2 });
    }
  }

  // Marching squares: in each cell of the grid, a line between the two places on its border where the value is 0.
  function boundary(values, size, scale) {
    const path = [];
    for (let row = 0; row + 1 < size; row++) {
      for (let column = 0; column + 1 < size; column++) {
        const corner = [[row, column], [row, column + 1], [row + 1, column + 1], [row + 1, column]];
        const crossings = [];
        for (let k = 0; k < 4; k++) {
          const [r0, c0] = corner[k], [r1, c1] = corner[(k + 1) % 4];
          const a = values[r0 * size + c0], b = values[r1 * size + c1];
          if ((a > 0) !== (b > 0)) {
            const share = a / (a - b);
            crossings.push([(c0 + share * (c1 - c0) + 0.5) * scale, (r0 + share * (r1 - r0) + 0.5) * scale]);
          }
        }
        for (let k = 0; k + 1 < crossings.length; k += 2) path.push(crossings[k], crossings[k + 1], null);
      }
    }
    return path;
  }

  function position(x, y, width) { return [(x / edge() + 1) / 2 * width, (1 - y / edge()) / 2 * width]; }

  // Points seldom change: they are drawn once, and copied into each frame.
  const dots = document.createElement("canvas");
  let dotted = null;
  function drawPoints(context, width) {
    const points = model.get("points");
    if (dotted !== points || dots.width !== plane.width) {
      dotted = points;
      dots.width = dots.height = plane.width;
      const sheet = dots.getContext("2d"), radius = Math.max(2, width / 115);
      sheet.scale(plane.width / width, plane.width / width);
      const places = floats(points.places), labels = bytes(points.labels), first = labels.length - points.own.length;
      const test = floats(points.test_places);
      bytes(points.test_labels).forEach((label, i) => dot(sheet, ...position(test[2 * i], test[2 * i + 1], width), label, radius, "", true));
      labels.forEach((label, i) => {
        const own = i >= first;
        dot(sheet, ...position(places[2 * i], places[2 * i + 1], width), label, (own ? 2 : 1) * radius, own ? "#1b1b1b" : "#ffffff");
      });
    }
    context.drawImage(dots, 0, 0, width, width);
  }

  function dot(context, x, y, label, radius, rim, hollow) {
    Object.assign(context, { fillStyle: CLASS_COLORS[label], strokeStyle: hollow ? CLASS_COLORS[label] : rim, lineWidth: radius > 5 ? 2 : 1 });
    context.beginPath();
    if (label) context.rect(x - radius * 0.9, y - radius * 0.9, radius * 1.8, radius * 1.8);
    else context.arc(x, y, radius, 0, 2 * Math.PI);
    if (!hollow) context.fill();
    context.stroke();
  }

  function drawLoss() {
    const { context, width, height, write, stroke } = pen(loss), curve = floats(model.get("frame").curve);
    const before = model.get("before"), old = before.curve ? floats(before.curve) : [], { twin } = model.get("settings");
    const known = (values, column) => values.some((value, i) => i % 5 === column && Number.isFinite(value));
    const lines = [{ name: "train", values: curve, column: 1, color: theme.ink, thickness: 1.5 }];
    if (known(curve, 2)) lines.unshift({ name: "test", values: curve, column: 2, color: TEST, thickness: 5 });
    if (twin) lines.push({ name: twin, values: curve, column: 3, color: TWIN, thickness: 2, dash: [3, 3] }, { values: curve, column: 4, color: TWIN, thickness: 2, dash: [6, 5] });
    if (before.curve) lines.unshift({ name: `before${before.name ? `: ${before.name}` : ""}`, values: old, column: known(old, 2) ? 2 : 1, color: theme.grey, thickness: 1.5, dash: [1, 3] });

    // The legend takes as many rows as it needs.
    let x = 34, y = 12;
    write("loss", 0, y);
    for (const { name, color, thickness, dash } of lines.filter((line) => line.name).reverse()) {
      let text = name;
      if (x > 34 && x + 26 + context.measureText(text).width > width) [x, y] = [34, y + 15];
      while (text && x + 26 + context.measureText(text).width > width) text = text.slice(0, -1);
      stroke([[x, y - 4], [x + 22, y - 4]], { strokeStyle: color, lineWidth: thickness, dash });
      write(text, x + 26, y);
      x += 36 + context.measureText(text).width;
    }

    const left = 40, right = 8, top = y + 12, bottom = 20, last = Math.max(10, curve.at(-5));
    let least = 0.05, most = 0.5;
    for (const values of [curve, old]) for (let i = 0; i < values.length; i++) {
      if (i % 5 && Number.isFinite(values[i]) && values[i - i % 5] <= last) {
        most = Math.max(most, values[i]);
        least = Math.min(least, Math.max(values[i], 1e-8));
      }
    }
    [least, most] = [Math.log10(least / 1.3), Math.log10(most * 1.3)];
    const px = (x) => left + x / last * (width - left - right);
    const py = (y) => top + (most - Math.log10(Math.max(y, 1e-8))) / (most - least) * (height - top - bottom);
    const marks = most - least < 1.7 ? [1, 2, 5] : [1], every = Math.ceil((most - least) / 5);
    for (let power = Math.floor(least); power <= most; power++) for (const mark of marks) {
      const y = mark * 10 ** power;
      if (y < 10 ** least || y > 10 ** most || power % every) continue;
      stroke([[left, py(y)], [width - right, py(y)]], { strokeStyle: theme.line });
      write(power < -3 || power > 3 ? y.toExponential(0) : String(+y.toPrecision(1)), left - 5, py(y) + 4, "right");
    }
    for (const x of ticks(last)) if (px(x) < width - 70) write(String(x), px(x), height - 5, "center");
    write("epoch", width - right, height - 5, "right");

    for (const { values, column, color, thickness, dash } of lines) {
      const path = [];
      for (let i = 0; i < values.length && values[i] <= last; i += 5) {
        path.push(Number.isFinite(values[i + column]) ? [px(values[i]), py(values[i + column])] : null);
      }
      stroke(path, { strokeStyle: color, lineWidth: thickness, dash });
      const newest = path.findLast((point) => point);
      if (values === curve && newest) {
        context.fillStyle = color;
        context.fillRect(newest[0] - 2, newest[1] - 2, 4, 4);
      }
    }
  }

  function ticks(most) {
    const raw = most / 4, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
    return Array.from({ length: Math.floor(most / step) + 1 }, (_, i) => +(i * step).toPrecision(6));
  }

  function drawLayers() {
    const rows = model.get("frame").layers, row = Math.max(20, Math.min(44, 260 / rows.length));
    layers.style.height = `${38 + rows.length * row}px`;
    const { context, width, height, write, stroke } = pen(layers);
    const left = 62, gap = 14, each = (width - left - gap) / 2, middle = left + each + gap;
    const long = (text) => context.measureText(text).width, fitting = (texts) => texts.find((text) => long(text) < each) ?? "";
    const zeros = (share) => (share >= 0.005 ? fitting([" % zero", " % 0"].map((text) => Math.round(100 * share) + text)) : "");
    write(fitting(["activations", "act."]), left, 12);
    write(fitting(["gradients |∂ℓ/∂W|", "gradients", "grad."]), middle, 12);
    rows.forEach((layer, i) => {
      const top = 18 + i * row + 12, bottom = 18 + (i + 1) * row - 2, [place, kind] = layer.name.split(", ");
      bars(context, stroke, layer.activations, left, bottom, each, row - 6, theme.activation);
      if (layer.gradients) bars(context, stroke, layer.gradients, middle, bottom, each, row - 6, theme.gradient, layer.twin_gradients);
      write(place, 0, top);
      write(zeros(layer.zero_activations), left, top);
      write(layer.gradients ? zeros(layer.zero_gradients) : fitting(["no step yet", "none yet"]), middle, top);
      if (row > 30) write(kind, 0, top + 14, "left", theme.grey);
    });
    const [low, high] = rows[0].range, y = height - 5, zero = left + each * -low / (high - low);
    write("0", zero, y, "center");
    if (zero - left > 24) write("−1", left, y);
    write(String(+high.toPrecision(2)), left + each, y, "right");
    write("10⁻⁸", middle, y);
    if (0.4 * each > 1.5 * long("10⁻⁸") + 6) write("10⁻⁴", middle + 0.4 * each, y, "center");
    write("1", middle + 0.8 * each, y, "center");
  }

  function bars(context, stroke, counts, left, bottom, width, height, color, outline) {
    const most = Math.max(1, ...counts, ...(outline ?? [])), step = width / counts.length;
    stroke([[left, bottom + 0.5], [left + width, bottom + 0.5]], { strokeStyle: theme.grey });
    context.fillStyle = color;
    counts.forEach((count, i) => {
      const tall = count / most * height;
      context.fillRect(left + i * step, bottom - tall, Math.max(1, step - 1), tall);
    });
    if (outline) {
      const path = outline.flatMap((count, i) => [i, i + 1].map((k) => [left + k * step, bottom - count / most * height]));
      stroke(path, { strokeStyle: TWIN, lineWidth: 1.5 });
    }
  }

  // Inside: what each unit computes, and the weights between

  let segments = [];
  function drawInside() {
    const { columns, size } = model.get("inside");
    const tallest = Math.max(...columns.map((column) => column.shown)), row = 34;
    network.style.height = `${20 + tallest * row}px`;
    const { context, width, write, stroke } = pen(network), tile = Math.min(30, width / (2 * columns.length - 1));
    const x = (c) => c * (width - tile) / (columns.length - 1), y = (c, u) => 20 + (u + (tallest - columns[c].shown) / 2) * row;
    segments = [];
    if (byGradient.checked && !columns[1].gradients.byteLength) write("no step yet", tile + 8, 36);
    columns.forEach((column, c) => {
      const values = floats((byGradient.checked ? column.gradients : column.weights) ?? new DataView(new ArrayBuffer(0)));
      const most = values.reduce((a, b) => Math.max(a, Math.abs(b)), 1e-12), before = columns[c - 1]?.shown;
      values.forEach((value, i) => {
        const unit = Math.floor(i / before), source = i % before;
        const from = [x(c - 1) + tile, y(c - 1, source) + tile / 2], to = [x(c), y(c, unit) + tile / 2];
        stroke([from, to], { strokeStyle: CLASS_COLORS[value > 0 ? 1 : 0], lineWidth: 0.2 + 4 * Math.abs(value) / most });
        segments.push({ from, to, place: [c - 1, unit, source] });
      });
    });
    const held = segments.find(({ place }) => String(place) === String(model.get("hand").place));
    if (held) stroke([held.from, held.to], { lineWidth: 3, dash: [2, 2] });
    columns.forEach((column, c) => {
      const pictures = shorts(column.pictures);
      for (let u = 0; u < column.shown; u++) {
        paint(context, pictures.subarray(u * size * size, (u + 1) * size * size), size, x(c), y(c, u), tile, false);
        context.strokeStyle = theme.grey;
        context.strokeRect(x(c), y(c, u), tile, tile);
      }
      const name = column.name.split(",")[0], of = `${column.shown} of ${column.total}`, room = (width - tile) / (columns.length - 1) - 6;
      const names = [...(column.shown < column.total ? [`${name}, ${of}`] : []), name, name.replace("layer ", ""), name.slice(0, 3)];
      write(names.find((text) => context.measureText(text).width < room) ?? "", ...(c === columns.length - 1 ? [width, 12, "right"] : [x(c), 12]));
    });
    network.setAttribute("aria-label", `What each unit computes on the plane, and the ${byGradient.checked ? "gradients" : "weights"} between: `
      + columns.map(({ name, shown, total }) => `${name}, ${shown} of ${total} units`).join("; "));
  }

  function takeWeight(event) {
    const frame = network.getBoundingClientRect(), px = event.clientX - frame.left, py = event.clientY - frame.top;
    let best = null, least = 6;
    for (const segment of segments) {
      const [[x0, y0], [x1, y1]] = [segment.from, segment.to], share = (px - x0) / (x1 - x0);
      const distance = share < 0 || share > 1 ? Infinity : Math.abs(y0 + share * (y1 - y0) - py);
      if (distance < least) [best, least] = [segment, distance];
    }
    if (best) send("hold", ...best.place, handled = next(handled));
  }

  function hold() {
    const { columns } = model.get("inside"), [layer, unit, input] = place.map((part) => Math.round(+part.value));
    const within = (value, least, most) => Math.max(least, Math.min(value, most));
    const chosen = [layer, within(unit, 0, columns[layer + 1].total - 1), within(input, -1, columns[layer].total - 1)];
    place.forEach((part, i) => { part.value = chosen[i]; });
    send("hold", ...chosen, handled = next(handled));
  }

  function showHand() {
    const { place: at, value, loss: here, slope: measured, gradient, words, curve, token: answered } = model.get("hand");
    const layers = model.get("inside").columns.slice(1).map((column) => column.name.split(",")[0]);
    if (place[0].options.length !== layers.length) {
      place[0].replaceChildren(...layers.map((name, i) => element("option", { value: i }, name)));
    }
    turn.disabled = !at || value === null;
    slope.hidden = !at || here === null || measured === null || gradient === null || curve.length < 2;
    if (!at) {
      handText.textContent = "No weight in hand yet: choose one, or click a line.";
      return;
    }
    if (answered >= handled) at.forEach((index, i) => { if (document.activeElement !== place[i]) place[i].value = index; });
    if ((answered >= handled && !turn.matches(":active")) || turn.dataset.place !== String(at)) {
      turn.max = Math.max(3, Math.ceil(Math.abs(value)));
      turn.min = -turn.max;
      turn.value = value;
    }
    turn.dataset.place = at;
    turn.setAttribute("aria-valuetext", short(value));
    handText.setAttribute("aria-live", playing() ? "off" : "polite");  // else it would be read aloud all the time
    handText.textContent = `Weight ${short(value)}: measured slope ${short(measured)}, gradient of backward ${short(gradient)}. ${words}`;
    if (slope.hidden) return;
    slope.setAttribute("aria-label", `The loss along this weight, from ${short(curve[0][0])} to ${short(curve.at(-1)[0])}, with the measured slope and the gradient`);
    const { context, width, height, write, stroke } = pen(slope);
    const losses = curve.map(([, y]) => y), [low, high] = [Math.min(...losses), Math.max(...losses)];
    const px = (x) => 8 + (x - curve[0][0]) / (curve.at(-1)[0] - curve[0][0]) * (width - 16);
    const py = (y) => height - 22 - (y - low) / (high - low || 1) * (height - 34);
    stroke(curve.map(([x, y]) => [px(x), py(y)]), { lineWidth: 2 });
    const reach = (curve.at(-1)[0] - curve[0][0]) / 5;
    for (const [rate, color, dash] of [[measured, TEST, []], [gradient, TWIN, [5, 4]]]) {
      stroke([-reach, reach].map((d) => [px(value + d), py(here + rate * d)]), { strokeStyle: color, lineWidth: 3, dash });
    }
    write("loss along this weight; green: measured slope, dashed: gradient", 8, height - 6);
  }

  // What comes from the kernel

  function hear() {
    heard = performance.now();
    if (root.dataset.blocked === "true") showStatus();
  }

  function showWhere({ epoch, batch, batches } = model.get("progress")) {
    hear();
    if (epoch === undefined) return;  // no long epoch yet
    numbers.epoch.textContent = batch ? `${epoch} + ${batch}/${batches}` : epoch;
  }

  function showFrame() {
    const frame = model.get("frame"), [trainLoss, testLoss, trainError, testError] = frame.now;
    showWhere(frame);
    numbers.train.textContent = percent(trainError);
    numbers.test.textContent = percent(testError);
    root.dataset.epoch = frame.epoch;
    const text = `train ${trainLoss?.toFixed(4) ?? "none"}, test ${testLoss?.toFixed(4) ?? "none"}`;
    loss.setAttribute("aria-label", `Loss after ${numbers.epoch.textContent} epochs: ${text}`);
    layers.setAttribute("aria-label", frame.layers.map((layer) => layer.words).join(". "));
    if (recorded) Object.assign(moment, { max: frame.moments - 1, value: frame.moment });
    twinText.textContent = frame.twin_words;
    draw();
  }

  function showStatus({ text, kind, playing } = model.get("status")) {
    root.dataset.blocked = "false";
    if (status.textContent !== text) status.textContent = text;  // else it would be read aloud again
    status.className = `status ${kind}`;
    play.textContent = playing ? "❚❚ Pause" : "▶ Play";
    Object.assign(root.dataset, { kind, playing });
  }

  function showAnswer() {
    asked = null;
    root.dataset.waiting = "false";
    hear();
  }

  // The kernel says itself when it begins long work. If it falls silent without, then because of somebody else.
  const watch = setInterval(() => {
    const since = Math.min(asked ?? Infinity, playing() && visible && !document.hidden ? heard : Infinity);
    if (lost || recorded || performance.now() - since < 1500 || model.get("status").kind === "busy" || root.dataset.blocked === "true") return;
    root.dataset.blocked = "true";
    status.textContent = "The kernel does not answer: it is busy, most likely with another cell. What you do here has to wait.";
    status.className = "status busy";
  }, 250);

  function showLost() {
    lost = true;
    root.dataset.waiting = "false";
    showStatus({ text: "The kernel was restarted: run the cells above and this one again.", kind: "trouble", playing: false });
  }

  function showSettings() {
    const settings = model.get("settings");
    showLegend();
    if (settings.token < token) return;  // an answer to an older change: the control has moved on
    for (const [name, control] of Object.entries(controls)) control.show(settings[name]);
    if (controls.noise) controls.noise.node.disabled = settings.data === "own points";
    seed.textContent = `New seed (${settings.seed})`;
    showTest.checked = settings.show_test;
    discretize.checked = settings.discretize;
    twin.checked = Boolean(settings.twin);
    twin.disabled = settings.twin === "healthy twin";
    twinName.textContent = twin.disabled ? " healthy twin" : " PyTorch twin";
    draw();
  }

  function showPoints() {
    const what = "The plane with the training points and what the network makes of it.";
    plane.setAttribute("aria-label", recorded ? what
      : `${what} Arrow keys move a cross, Enter adds a point, Delete removes one of yours, M picks it up to move it, Ctrl+Z undoes.`);
    clear.setAttribute("aria-disabled", String(!model.get("points").own.length));
    showLegend();
    draw();
  }

  function showLegend() {
    const { own, drawn: total, test, labels, test_labels } = model.get("points"), settings = model.get("settings");
    const shown = labels.byteLength - own.length;
    const kinds = [total && `${shown} of ${total} training points`, own.length && `${own.length} of your own`,
      test_labels.byteLength && `${test_labels.byteLength} of ${test} test points (hollow)`].filter(Boolean);
    const twins = { PyTorch: "; dashed: PyTorch's", "healthy twin": "; dashed: the healthy twin's" }[settings.twin] ?? "";
    legend.textContent = `${kinds.join(", ") || "No points yet"}. Background: the prediction${settings.discretize ? "" : ", stronger where surer"}`
      + `; line: undecided${twins}.` + (recorded ? "" : " Click to add a point, drag it to move it, or out of the plane to remove it.");
  }

  function showStory() {
    const now = model.get("story");
    story.hidden = !now.name;
    if (!now.name) return;
    if (story.dataset.bug !== now.name) storyText.open = false;
    story.dataset.bug = now.name;
    storyLook.textContent = now.look;
    storyText.querySelector("p").replaceChildren(...withCode(`${now.title}. ${now.story} Symptom: ${now.symptom}`));
    answers.replaceChildren(...now.answers.map(({ check, sees, words }) =>
      element("li", { "data-check": check, "data-sees": String(sees) }, element("strong", {}, `${check}: ${sees ? "sees it" : "silent"}. `), words)));
  }

  function saveFile(message, buffers) {
    if (!message.file) return;
    const address = URL.createObjectURL(new Blob([buffers[0]], { type: message.type }));
    element("a", { href: address, download: message.file }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  }

  const listeners = {
    "change:settings": showSettings, "change:points": showPoints, "change:frame": showFrame, "change:before": draw,
    "change:story": showStory, "change:inside": draw, "change:hand": draw,
    "change:code": () => { code.textContent = model.get("code"); }, "change:line": () => { line.textContent = model.get("line"); },
    "change:status": () => { hear(); showStatus(); }, "change:answer": showAnswer,
    "change:progress": () => showWhere(), "msg:custom": saveFile, "comm_live_update": showLost,  // Jupyter's word that the kernel is gone
  };
  for (const [event, listener] of Object.entries(listeners)) {
    model.on(event, listener);
    if (event.startsWith("change:")) listener();
  }

  const look = () => {
    const now = onScreen && !document.hidden;
    if (now !== visible) {
      visible = now;
      send("sight", id, visible);
    }
    draw();
  };
  const leave = () => send("sight", id, null);
  let onScreen = false;
  const sight = new IntersectionObserver((entries) => { onScreen = entries.at(-1).isIntersecting; look(); });
  sight.observe(root);
  document.addEventListener("visibilitychange", look);
  if (!recorded) addEventListener("pagehide", leave);
  const resized = new ResizeObserver(() => requestAnimationFrame(draw));
  resized.observe(root);
  const themed = new MutationObserver(() => { theme = null; draw(); });
  themed.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });

  return () => {
    for (const observer of [sight, resized, themed]) observer.disconnect();
    document.removeEventListener("visibilitychange", look);
    removeEventListener("pagehide", leave);
    clearInterval(watch);
    for (const [event, listener] of Object.entries(listeners)) model.off(event, listener);
    leave();
  };
}

export default { render };
