// Stands behind view.js on the page of recorded runs: a model for the view that plays recordings, where else a kernel trains.

const PICTURES_PER_SECOND = 6;

function unpack(text) { return Uint8Array.from(atob(text), (character) => character.charCodeAt(0)); }

function surface(differences) {
  let value = 0;
  return Int16Array.from(differences, (difference) => 128 * (value += difference));
}

function player({ runs, choices, labels }) {
  const listeners = {}, state = { recorded: true, choices, labels, before: {}, progress: {}, inside: {}, hand: {}, code: "", answer: 0 };
  let run = runs[0], moment = 0, timer = null, visible = true, look = { discretize: false };

  const set = (name, value) => {
    state[name] = value;
    for (const listener of listeners[`change:${name}`] ?? []) listener();
  };
  const at = ({ epoch, batch, batches }) => epoch + batch / batches;
  const epochs = () => `${run.moments[moment].epoch} epoch${run.moments[moment].epoch === 1 ? "" : "s"}`;
  const say = (text, kind = "fine") => set("status", { text, kind, playing: timer !== null });

  function show() {
    const frame = run.moments[moment], { epoch } = frame, rows = floats(run.curve);
    let end = 0;
    while (end < rows.length && rows[end] <= epoch) end += 5;
    set("frame", { ...frame, number: moment, moment, moments: run.moments.length,
      curve: rows.slice(0, end), surface: surface(frame.surface), twin_surface: surface(frame.twin_surface) });
  }

  function load(next, token = 0) {
    const different = Object.keys(choices).filter((name) => run.settings[name] !== next.settings[name]);
    const now = at(run.moments[moment]);
    if (next !== run) set("before", { name: different.map((name) => `${name}=${run.settings[name]}`).join(", "), curve: run.curve });
    run = next;
    moment = run.moments.findLastIndex((candidate) => at(candidate) <= now);
    set("settings", { ...run.settings, ...look, token });
    set("points", run.points);
    set("story", run.story);
    set("line", run.line);
    show();
  }

  function stop() {
    clearInterval(timer);
    timer = null;
  }

  function end() {
    if (run.trouble) say(run.trouble, "trouble");
    else say(`The recording ends here, after ${epochs()}.`);
  }

  const last = () => moment === run.moments.length - 1;
  const actions = {
    play() {
      if (last()) moment = 0;
      stop();
      timer = setInterval(() => {
        if (!visible || document.hidden) return;
        if (!last()) moment++;
        if (last()) stop();
        show();
        if (last()) end();
      }, 1000 / PICTURES_PER_SECOND);
      show();
      say("Playing the recording.");
    },
    pause() {
      stop();
      say("Paused.");
    },
    go(to) {
      stop();
      moment = to;
      show();
      if (last()) end(); else say(`The recording after ${epochs()}.`);
    },
    // Not every combination was recorded. Shown is the run that agrees with the choice, and with most of what was chosen before.
    set(name, value, token) {
      if (name in look) {
        look = { ...look, [name]: value };
        return set("settings", { ...state.settings, ...look, token });
      }
      const old = run.settings, agreeing = (next) => Object.keys(old).filter((key) => String(next.settings[key]) === String(old[key])).length;
      const next = runs.filter((other) => other.settings[name] === value).reduce((a, b) => (agreeing(b) > agreeing(a) ? b : a));
      load(next, token);
      const quoted = (key) => `${key}=${typeof next.settings[key] === "string" ? `'${next.settings[key]}'` : written(next.settings[key])}`;
      const others = Object.keys(labels).filter((key) => key !== name && String(next.settings[key]) !== String(old[key])).map(quoted);
      const broken = last() && next.trouble ? ` ${next.trouble}` : "";
      say(`${quoted(name)}.${others.length ? ` It was recorded with ${others.join(", ")}.` : ""} ${next.story.look ?? ""}`.trim() + broken, broken ? "trouble" : "fine");
    },
    ask_checks() {
      set("story", { ...run.story, answers: run.answers });
      const seen = run.answers.filter((answer) => answer.sees).length;
      say(`${seen} of ${run.answers.length} checks saw it when they were run for this recording. Below is what they found.`);
    },
    sight(view, seen) { visible = Boolean(seen); },
    seen() {},
    unfold() {},
  };

  load(run);
  say("A recording: press Play, or move the slider.");
  return {
    get: (name) => state[name],
    on: (event, listener) => (listeners[event] ??= []).push(listener),
    off: (event, listener) => { listeners[event] = listeners[event].filter((other) => other !== listener); },
    send: ({ action, arguments: given }) => {
      actions[action](...given);
      if (action !== "seen" && action !== "sight") queueMicrotask(() => set("answer", state.answer + 1));
    },
  };
}

const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => { document.body.dataset.jpThemeLight = String(!dark.matches); };
dark.addEventListener("change", follow);
follow();

// In a frame, as in the book, the page around wants to know the height, and tells whether it is dark.
if (parent !== window) {
  const report = () => parent.postMessage({ height: document.documentElement.offsetHeight }, "*");
  new ResizeObserver(report).observe(document.body);
  addEventListener("message", ({ source, data }) => {
    if (source !== parent) return;
    dark.removeEventListener("change", follow);
    document.body.dataset.jpThemeLight = String(!data.dark);
  });
}

const packed = new Blob([unpack(document.getElementById("recording").textContent)]);
const unzipped = await new Response(packed.stream().pipeThrough(new DecompressionStream("gzip"))).text();
render({
  model: player(JSON.parse(unzipped, (_, value) => (value?.base64 === undefined ? value : unpack(value.base64)))),
  el: document.getElementById("playground"),
});
