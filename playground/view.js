// The playground's view: it draws what the kernel sends and sends what the learner does. It keeps no state of its own.

// Okabe and Ito's colours, which remain distinct with a colour-vision deficiency.
const CLASS_COLORS = ["#D55E00", "#0072B2"];
const CLASS_TEXTS = ["#A84300", "#0072B2"];  // text needs more contrast than dots
const SURFACE = [[245, 180, 100], [115, 178, 228]];
const INK = "#1b1b1b", GREY = "#767676", TRAIN = "#000000", TEST = "#009E73", TWIN = "#CC79A7";
const FONT = "12px system-ui, sans-serif";

const GROUPS = {
  Data: ["data", "noise"],
  Network: ["depth", "width", "activation", "dropout", "init_scale"],
  Training: ["reduction", "optimizer", "lr", "batch_size"],
};

let views = 0;  // of one widget: each widget loads this file anew

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value !== undefined) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

function render({ model, el }) {
  views++;
  const id = `diy-lab-${Math.random().toString(36).slice(2)}`;
  let waiting = null, drawn = 0, scheduled = false, cursor = null, recent = [], token = 0, seen = 0;

  const send = (action, ...args) => {
    try {
      model.send({ action, arguments: args });
    } catch {
      return showLost();
    }
    if (action === "seen" || action === "closed") return;
    clearTimeout(waiting);
    waiting = setTimeout(() => { status.textContent = "Waiting for the kernel: another cell is running."; }, 1500);
    root.dataset.waiting = "true";
  };

  const set = (name, value) => {
    token = Math.max(Date.now(), token + 1);
    send("set", name, value, token);
  };

  // The parts

  const play = element("button", { class: "main", "data-action": "play", onclick: () => send(playing() ? "pause" : "play") });
  const button = (action, text, title) =>
    element("button", { "data-action": action, title, onclick: () => send(action) }, text);
  const numbers = {};
  const number = (name, text) => {
    numbers[name] = element("strong", { "data-number": name });
    return element("span", {}, `${text} `, numbers[name]);
  };
  const status = element("p", { class: "status", role: "status", "aria-live": "polite" });
  const controls = {};
  const speed = select("speed", (value) => value);
  const plane = element("canvas", {
    class: "plane", tabindex: 0, role: "application", "data-part": "plane",
    onclick: (event) => addAt(...place(event)),
    onkeydown: moveCursor,
    onblur: () => { cursor = null; draw(); },
  });
  const loss = element("canvas", { class: "loss", role: "img", "data-part": "loss" });
  const layers = element("canvas", { class: "layers", role: "img", "data-part": "layers" });
  const clear = button("clear", "Remove mine", "remove the points you added");
  const legend = element("p", { class: "hint" });
  const classes = [0, 1].map((label) =>
    element("label", {},
      element("input", { type: "radio", name: `${id}-class`, value: label, checked: label === 1 }),
      `${label ? "■" : "●"} class ${label}`));
  classes.forEach((label, index) => { label.style.color = CLASS_TEXTS[index]; });
  const twin = element("input", { type: "checkbox", "data-setting": "twin", onchange: () => send("twin", twin.checked) });
  const code = element("pre", { tabindex: 0, "aria-label": "the program of this run" });
  const copied = element("span", { class: "hint", role: "status" });
  const panel = element("div", { class: "code", hidden: true },
    element("div", { class: "row" },
      element("strong", {}, "The program of this run"),
      element("button", { "data-action": "copy", onclick: copy }, "Copy"), copied),
    code);
  const codeButton = element("button", {
    "data-action": "code", "aria-expanded": "false",
    onclick: () => {
      panel.hidden = !panel.hidden;
      codeButton.setAttribute("aria-expanded", String(!panel.hidden));
      if (!panel.hidden) send("write_code");
    },
  }, "Show the code");

  const root = element("div", { class: "diy-lab", role: "group", "aria-label": "Playground" },
    element("div", { class: "row" },
      element("div", { class: "buttons" }, play,
        button("step", "Step", "one step on one mini-batch"),
        button("epoch", "Epoch", "to the end of the epoch"),
        button("reset", "Reset", "back to the initial weights")),
      element("label", {}, "Speed ", speed),
      element("div", { class: "numbers" },
        number("epoch", "epoch"), number("train", "train error"), number("test", "test error"))),
    status,
    element("div", { class: "stage" },
      element("div", {},
        plane,
        element("div", { class: "row plane-tools" },
          element("span", {}, "Add"), ...classes, clear),
        legend),
      element("div", {}, loss, layers)),
    element("div", { class: "controls" },
      ...Object.entries(GROUPS).map(([name, fields]) =>
        element("fieldset", { "data-group": name }, element("legend", {}, name),
          element("div", { class: "fields" }, ...fields.map(field))))),
    element("div", { class: "row", style: "margin-top: 8px" },
      element("label", {}, twin, " train a PyTorch twin beside"), codeButton),
    panel);
  // Keys pressed here are not JupyterLab's shortcuts; it looks for this mark on the focused element itself.
  for (const node of root.querySelectorAll("button, canvas, input, pre, select")) {
    node.setAttribute("data-lm-suppress-shortcuts", "true");
  }
  el.append(root);

  function select(name, text) {
    const node = element("select", { "data-setting": name, onchange: () => set(name, choices(name)[node.selectedIndex]) },
      ...choices(name).map((value) => element("option", {}, text(value))));
    controls[name] = { show: (value) => { node.selectedIndex = choices(name).indexOf(value); } };
    return node;
  }

  function field(name) {
    const [text, title] = model.get("labels")[name];
    if (["data", "activation", "reduction", "optimizer"].includes(name)) {
      return element("label", { class: "field", title }, element("span", { class: "name" }, text), select(name, String));
    }
    const output = element("span", { class: "value" });
    const input = element("input", {
      type: "range", min: 0, step: 1, "data-setting": name, "aria-label": text,
      oninput: () => { controls[name].label(); set(name, choices(name)[+input.value]); },
    });
    controls[name] = {
      show: (value) => {
        input.max = choices(name).length - 1;
        input.value = choices(name).indexOf(value);
        controls[name].label();
      },
      label: () => {
        const value = choices(name)[+input.value];
        output.textContent = value > 0 && value < 0.001 ? value.toExponential() : String(value);
        input.setAttribute("aria-valuetext", output.textContent);
      },
    };
    return element("label", { class: "field", title },
      element("span", { class: "name" }, text, output), input);
  }

  function choices(name) { return model.get("choices")[name]; }
  function playing() { return model.get("status").playing; }

  // Points: by mouse and by keyboard

  function place(event) {
    const box = plane.getBoundingClientRect(), edge = model.get("points").edge;
    return [
      ((event.clientX - box.left) / box.width * 2 - 1) * edge,
      (1 - (event.clientY - box.top) / box.height * 2) * edge,
    ];
  }

  function addAt(x, y) {
    const edge = model.get("points").edge, inside = (value) => Math.max(-edge, Math.min(edge, value));
    send("add", inside(x), inside(y), classes[1].querySelector("input").checked ? 1 : 0);
  }

  function moveCursor(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    if (moves[event.key]) {
      const edge = model.get("points").edge, step = edge / (event.shiftKey ? 5 : 25);
      cursor = (cursor || [0, 0]).map((value, i) => Math.max(-edge, Math.min(edge, value + step * moves[event.key][i])));
    } else if (event.key === "Enter" || event.key === " ") {
      cursor = cursor || [0, 0];
      addAt(...cursor);
    } else return;
    event.preventDefault();
    draw();
  }

  async function copy() {
    try {
      await navigator.clipboard.writeText(model.get("code"));
      copied.textContent = "Copied.";
    } catch {
      getSelection().selectAllChildren(code);
      copied.textContent = "Selected: press Ctrl+C.";
    }
  }

  // Drawing

  // Texts that do not fit, or lie over others or over bars, are listed in the attribute "cut".
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
    context.textBaseline = "alphabetic";
    canvas.dataset.cut = "";
    const taken = [];
    const write = (text, x, y, align = "left") => {
      context.textAlign = align;
      context.fillText(text, x, y);
      const long = context.measureText(text).width, left = x - { left: 0, center: long / 2, right: long }[align];
      const fits = left > -1 && left + long < width + 1 && y < height;
      if (!fits || taken.some((box) => left < box[1] && left + long > box[0] && y - 9 < box[3] && y > box[2])) {
        canvas.dataset.cut += `${text} `;
      }
      if (text) taken.push([left, left + long, y - 9, y]);
    };
    return { context, width, height, write, taken };
  }

  function draw() {
    if (scheduled) return;
    scheduled = true;
    requestAnimationFrame(() => {
      scheduled = false;
      if (!root.isConnected) return;
      drawPlane();
      drawLoss();
      drawLayers();
      const now = performance.now();
      recent = [...recent.filter((time) => now - time < 1000), now];
      Object.assign(root.dataset, { frames: ++drawn, fps: recent.length });
    });
  }

  function bytes(view) { return new Uint8Array(view.buffer, view.byteOffset, view.byteLength); }
  function floats(view) { return new Float32Array(bytes(view).slice().buffer); }

  const small = document.createElement("canvas");
  function drawPlane() {
    const { context, width } = pen(plane), frame = model.get("frame"), size = frame.size;
    const values = new Int16Array(bytes(frame.surface).slice().buffer);
    small.width = small.height = size;
    const image = new ImageData(size, size);
    values.forEach((value, i) => {
      const share = Math.min(1, Math.abs(value) / 26000), color = SURFACE[value > 0 ? 1 : 0];
      for (let c = 0; c < 3; c++) image.data[4 * i + c] = 255 - share * (255 - color[c]);
      image.data[4 * i + 3] = 255;
    });
    small.getContext("2d").putImageData(image, 0, 0);
    context.imageSmoothingEnabled = true;
    context.drawImage(small, 0, 0, width, width);
    drawBoundary(context, values, size, width / size);
    drawPoints(context, width);
    if (cursor && document.activeElement === plane) {
      const [x, y] = position(cursor[0], cursor[1], width);
      context.strokeStyle = INK;
      context.lineWidth = 2;
      context.beginPath();
      context.moveTo(x - 10, y); context.lineTo(x + 10, y);
      context.moveTo(x, y - 10); context.lineTo(x, y + 10);
      context.stroke();
    }
  }

  // Marching squares: in each cell of the grid, a line between the two places on its border where the value is 0.
  function drawBoundary(context, values, size, scale) {
    context.strokeStyle = INK;
    context.lineWidth = 1.5;
    context.beginPath();
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
        for (let k = 0; k + 1 < crossings.length; k += 2) {
          context.moveTo(...crossings[k]);
          context.lineTo(...crossings[k + 1]);
        }
      }
    }
    context.stroke();
  }

  function position(x, y, width) {
    const edge = model.get("points").edge;
    return [(x / edge + 1) / 2 * width, (1 - y / edge) / 2 * width];
  }

  // Points seldom change: they are drawn once, and copied into each frame.
  const dots = document.createElement("canvas");
  let dotted = null;
  function drawPoints(context, width) {
    const points = model.get("points");
    if (dotted !== points || dots.width !== plane.width) {
      dotted = points;
      dots.width = dots.height = plane.width;
      const sheet = dots.getContext("2d");
      sheet.scale(plane.width / width, plane.width / width);
      drawDots(sheet, points, width);
    }
    context.drawImage(dots, 0, 0, width, width);
  }

  function drawDots(context, points, width) {
    const places = floats(points.places), labels = bytes(points.labels), first = labels.length - points.added;
    labels.forEach((label, i) => {
      const [x, y] = position(places[2 * i], places[2 * i + 1], width), own = i >= first;
      const radius = (own ? 2 : 1) * Math.max(2, width / 115);
      context.fillStyle = CLASS_COLORS[label];
      context.lineWidth = own ? 2 : 1;
      context.strokeStyle = own ? INK : "#fff";
      context.beginPath();
      if (label) context.rect(x - radius * 0.9, y - radius * 0.9, radius * 1.8, radius * 1.8);
      else context.arc(x, y, radius, 0, 2 * Math.PI);
      context.fill();
      context.stroke();
    });
  }

  function drawLoss() {
    const { context, width, height, write } = pen(loss), curve = floats(model.get("frame").curve), n = curve.length / 5;
    const left = 40, right = 8, top = 24, bottom = 20;
    let least = 0.05, most = 0.5;
    curve.forEach((value, i) => {
      if (i % 5 && Number.isFinite(value)) {
        most = Math.max(most, value);
        least = Math.min(least, Math.max(value, 1e-8));
      }
    });
    [least, most] = [Math.log10(least / 1.3), Math.log10(most * 1.3)];
    const last = Math.max(10, curve[5 * (n - 1)] || 0);
    const px = (x) => left + x / last * (width - left - right);
    const py = (y) => top + (most - Math.log10(Math.max(y, 1e-8))) / (most - least) * (height - top - bottom);
    context.fillStyle = INK;
    context.strokeStyle = "#dddddd";
    context.lineWidth = 1;
    const marks = most - least < 1.7 ? [1, 2, 5] : [1];
    for (let power = Math.floor(least); power <= most; power++) for (const mark of marks) {
      const y = mark * 10 ** power;
      if (y < 10 ** least || y > 10 ** most) continue;
      context.beginPath(); context.moveTo(left, py(y)); context.lineTo(width - right, py(y)); context.stroke();
      write(power < -3 ? y.toExponential(0) : String(+y.toPrecision(1)), left - 5, py(y) + 4, "right");
    }
    for (const x of ticks(last)) if (px(x) < width - 70) write(String(x), px(x), height - 5, "center");
    write("epoch", width - right, height - 5, "right");

    const twinned = model.get("frame").twin !== null;
    const lines = [["train", 1, TRAIN, 1.5, []], ["test", 2, TEST, 5, []]];
    if (twinned) lines.push(["PyTorch", 3, TWIN, 2, [3, 3]], ["", 4, TWIN, 2, [6, 5]]);
    for (const [, column, color, thickness, dash] of [lines[1], lines[0], ...lines.slice(2)]) {
      Object.assign(context, { strokeStyle: color, fillStyle: color, lineWidth: thickness });
      context.setLineDash(dash);
      context.beginPath();
      for (let i = 0; i < n; i++) {
        const y = curve[5 * i + column];
        if (Number.isFinite(y)) context.lineTo(px(curve[5 * i]), py(y));
      }
      context.stroke();
      const y = curve[5 * (n - 1) + column];
      if (Number.isFinite(y)) context.fillRect(px(curve[5 * (n - 1)]) - 2, py(y) - 2, 4, 4);
    }
    let x = 0;
    context.fillStyle = INK;
    write("loss", x, 12);
    x += 34;
    for (const [text, , color, thickness, dash] of lines.filter(([text]) => text)) {
      context.strokeStyle = color; context.lineWidth = thickness; context.setLineDash(dash);
      context.beginPath(); context.moveTo(x, 8); context.lineTo(x + 22, 8); context.stroke();
      write(text, x + 26, 12);
      x += 36 + context.measureText(text).width;
    }
    context.setLineDash([]);
  }

  function ticks(most) {
    const raw = most / 4, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
    return Array.from({ length: Math.floor(most / step) + 1 }, (_, i) => +(i * step).toPrecision(6));
  }

  function drawLayers() {
    const rows = model.get("frame").layers, row = rows.length > 5 ? 36 : 44;
    layers.style.height = `${18 + rows.length * row + 20}px`;
    const { context, width, height, write, taken } = pen(layers);
    const left = 62, gap = 14, each = (width - left - gap) / 2, middle = left + each + gap;
    const long = (text) => context.measureText(text).width;
    context.fillStyle = INK;
    write("activations", left, 12);
    write(["gradients |∂ℓ/∂W|", "gradients"].find((text) => long(text) < each) ?? "", middle, 12);
    rows.forEach((layer, i) => {
      const top = 18 + i * row + 12, bottom = top + row - 16, [place, kind] = layer.name.split(", ");
      context.fillStyle = INK;
      write(place, 0, top);
      context.fillStyle = "#555";
      write(kind, 0, top + 14);
      write(zeros(layer.zero_activations), left, top);
      write(layer.gradients ? zeros(layer.zero_gradients) : "no step yet", middle, top);
      for (const [counts, x, color] of [[layer.activations, left, "#3f8fc9"], [layer.gradients, middle, "#b45f8f"]]) {
        if (!counts) continue;
        bars(context, counts, x, bottom, each, bottom - top - 4, color);
        taken.push([x, x + each, top + 4, bottom]);
      }
    });
    context.fillStyle = INK;
    const [low, high] = rows[0].range, y = height - 5;
    const zero = left + each * -low / (high - low);
    write("0", zero, y, "center");
    if (zero - left > 24) write("−1", left, y);
    write(String(+high.toPrecision(2)), left + each, y, "right");
    write("10⁻⁸", middle, y);
    if (0.4 * each > 1.5 * long("10⁻⁸") + 6) write("10⁻⁴", middle + 0.4 * each, y, "center");
    write("1", middle + 0.8 * each, y, "center");
  }

  function zeros(share) { return share >= 0.005 ? `${Math.round(100 * share)} % zero` : ""; }

  function bars(context, counts, left, bottom, width, height, color) {
    const most = Math.max(1, ...counts), step = width / counts.length;
    context.strokeStyle = GREY;
    context.lineWidth = 1;
    context.beginPath(); context.moveTo(left, bottom + 0.5); context.lineTo(left + width, bottom + 0.5); context.stroke();
    context.fillStyle = color;
    counts.forEach((count, i) => {
      const tall = count / most * height;
      context.fillRect(left + i * step, bottom - tall, Math.max(1, step - 1), tall);
    });
  }

  // What comes from the kernel

  const percent = (value) => (value === null ? "–" : `${(100 * value).toFixed(1)} %`);

  function showFrame() {
    const frame = model.get("frame"), [trainLoss, testLoss, trainError, testError] = frame.now;
    numbers.epoch.textContent = frame.batch ? `${frame.epoch} + ${frame.batch}/${frame.batches}` : frame.epoch;
    numbers.train.textContent = percent(trainError);
    numbers.test.textContent = percent(testError);
    root.dataset.epoch = frame.epoch;
    if (frame.number - seen >= 15) send("seen", seen = frame.number);
    const text = `train ${trainLoss?.toFixed(4) ?? "none"}, test ${testLoss?.toFixed(4) ?? "none"}`;
    loss.setAttribute("aria-label", `Loss after ${numbers.epoch.textContent} epochs: ${text}`);
    layers.setAttribute("aria-label", "Histograms of activations and of gradients, layer by layer");
    if (frame.twin !== null) {
      twinText.textContent = `Its curves and diy's agree within ${frame.twin.toExponential(0)} so far (they round differently, and training amplifies it).`;
    } else twinText.textContent = "";
    draw();
  }

  function showStatus({ text, kind, playing } = model.get("status")) {
    if (status.textContent !== text) status.textContent = text;  // else it would be read aloud again
    status.className = `status ${kind}`;
    play.textContent = playing ? "❚❚ Pause" : "▶ Play";
    Object.assign(root.dataset, { kind, playing });
  }

  function showAnswer() {
    clearTimeout(waiting);
    root.dataset.waiting = "false";
    showStatus();
  }

  function showLost() {
    clearTimeout(waiting);
    root.dataset.waiting = "false";
    const text = "The kernel was restarted: run the first cell and this one again.";
    showStatus({ text, kind: "trouble", playing: false });
  }

  function showSettings() {
    const settings = model.get("settings");
    if (settings.token < token) return;  // an answer to an older change: the control has moved on
    for (const [name, control] of Object.entries(controls)) control.show(settings[name]);
    twin.checked = settings.twin;
  }

  function showPoints() {
    const { added, drawn: total, labels } = model.get("points");
    plane.setAttribute("aria-label",
      "The plane with the training points and what the network makes of it. Arrow keys move a cross, Enter adds a point.");
    const shown = labels.byteLength - added;
    clear.hidden = !added;
    const kinds = [total && `${shown} of ${total} training points`, added && `${added} of your own`].filter(Boolean);
    legend.textContent = `${kinds.join(" and ") || "No points yet"}. ` +
      "Background: the prediction, stronger where surer; black line: undecided.";
    draw();
  }

  function showCode() {
    code.textContent = model.get("code");
  }

  const twinText = element("span", { "data-number": "twin" });
  codeButton.after(twinText);
  const listeners = {
    "change:frame": showFrame, "change:settings": showSettings, "change:points": showPoints, "change:code": showCode,
    "change:status": () => showStatus(), "change:answer": showAnswer,
  };
  for (const [event, listener] of Object.entries(listeners)) {
    model.on(event, listener);
    listener();
  }
  model.on("comm_live_update", showLost);  // Jupyter's word that the kernel is gone
  const resized = new ResizeObserver(draw);
  resized.observe(root);

  return () => {
    resized.disconnect();
    clearTimeout(waiting);
    for (const [event, listener] of Object.entries(listeners)) model.off(event, listener);
    model.off("comm_live_update", showLost);
    if (!--views) send("closed");
  };
}

export default { render };
