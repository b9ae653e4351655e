// What the gaze explorer draws in the browser; the Python side is canvas.py, which says what each trait means.
// A kind of widget is a function of (model, el) in KINDS; it draws again whenever the model changes.

const FIXATION = "#ff2d55", BOX = "rgba(255,255,255,0.55)", TARGET = "#ffffff";

const floats = view => new Float32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
const bytes = view => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);

function element(name, parent, className = "", text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  parent.appendChild(made);
  return made;
}

// Draw once per screen frame, however many traits a message brings, and when the element changes its width.
function redrawn(model, el, draw) {
  let waiting = false;
  const ask = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; if (el.isConnected) draw(); });
  };
  model.on("change", ask);
  const watcher = new ResizeObserver(ask);
  watcher.observe(el);
  ask();
  return () => { model.off("change", ask); watcher.disconnect(); };
}

// A canvas as sharp as the screen, as wide as its column and `height` CSS pixels high; draws in CSS pixels.
function prepared(canvas, height) {
  const width = canvas.clientWidth, sharp = window.devicePixelRatio || 1;
  canvas.style.height = `${height}px`;
  canvas.width = Math.round(width * sharp);
  canvas.height = Math.round(height * sharp);
  const pen = canvas.getContext("2d");
  pen.setTransform(sharp, 0, 0, sharp, 0, 0);
  pen.imageSmoothingEnabled = false;
  return [pen, width];
}

async function picture(content, type) {
  return createImageBitmap(new Blob([bytes(content)], { type }));
}

// The colour of a weight: `table` has 256 times red, green, blue from `low` up to `high`.
function colour(table, value, low, high) {
  const share = high > low ? (value - low) / (high - low) : 0;
  return 3 * Math.min(255, Math.max(0, Math.round(255 * share)));
}

// A picture under a map, each patch's colour on exactly its pixels; without a picture the map alone.
function painted(width, height, image, map, grid, low, high, table, opacity) {
  const sheet = new OffscreenCanvas(width, height), pen = sheet.getContext("2d");
  if (image) pen.drawImage(image.bitmap, image.x || 0, image.y || 0, image.side || width, image.side || height,
                           0, 0, width, height);
  if (!map || !map.length) return sheet;
  const data = pen.getImageData(0, 0, width, height), pixels = data.data, [h, w] = grid;
  for (let y = 0, at = 0; y < height; y++) {
    const row = Math.floor(y * h / height) * w;
    for (let x = 0; x < width; x++, at += 4) {
      const from = colour(table, map[row + Math.floor(x * w / width)], low, high);
      for (let c = 0; c < 3; c++) pixels[at + c] = Math.round(pixels[at + c] * (1 - opacity) + table[from + c] * opacity);
      pixels[at + 3] = 255;
    }
  }
  pen.putImageData(data, 0, 0);
  return sheet;
}

const shown = value => Math.abs(value) >= 0.1 || value === 0 ? value.toFixed(2) : value.toPrecision(2);

// ── A frame under its attention ──

function view(model, el) {
  el.classList.add("fvlm-view");
  const title = element("div", el, "fvlm-title"), canvas = element("canvas", el);
  const foot = element("div", el, "fvlm-foot"), overview = element("canvas", foot, "fvlm-overview");
  const reset = element("button", foot, "fvlm-button", "whole frame"), said = element("span", foot, "fvlm-said");
  let image = null, place = null, from = null, to = null;

  const load = async () => {
    const content = model.get("picture");
    image = content.byteLength ? { bitmap: await picture(content, "image/png"), of: content } : null;
    draw();
  };

  function draw() {
    const [H, W] = model.get("size"), [h, w] = model.get("grid");
    title.textContent = model.get("title");
    canvas.style.maxWidth = `${model.get("widest")}px`;
    const wide = canvas.clientWidth, high = Math.round(wide * H / W);
    const [pen] = prepared(canvas, high);
    const map = model.get("map").byteLength ? floats(model.get("map")) : null, table = bytes(model.get("table"));
    const sheet = painted(W, H, image, map, [h, w], model.get("low"), model.get("high"), table, model.get("opacity"));
    const [top, left, bottom, right] = model.get("zoom").length ? model.get("zoom") : [0, 0, h, w];
    const part = { x: left * W / w, y: top * H / h, width: (right - left) * W / w, height: (bottom - top) * H / h };
    const scale = Math.min(wide / part.width, high / part.height);
    place = { x: (wide - part.width * scale) / 2 - part.x * scale, y: (high - part.height * scale) / 2 - part.y * scale,
              scale, W, H, h, w };
    pen.save();
    pen.beginPath();
    pen.rect(place.x + part.x * scale, place.y + part.y * scale, part.width * scale, part.height * scale);
    pen.clip();
    pen.drawImage(sheet, 0, 0, W, H, place.x, place.y, W * scale, H * scale);
    const X = x => place.x + x * scale, Y = y => place.y + y * scale;
    model.get("boxes").forEach(([x0, y0, x1, y1], i) => {
      const target = i === model.get("target");
      pen.strokeStyle = target ? TARGET : BOX;
      pen.lineWidth = target ? 2.5 : 1;
      if (x1 > x0) pen.strokeRect(X(x0), Y(y0), (x1 - x0) * scale, (y1 - y0) * scale);
    });
    const path = model.get("path");
    pen.strokeStyle = pen.fillStyle = FIXATION;
    pen.lineWidth = 2;
    pen.beginPath();
    path.forEach(([x, y]) => pen.lineTo(X(x), Y(y)));
    pen.stroke();
    path.forEach(([x, y], i) => {
      const last = i === path.length - 1;
      pen.beginPath();
      pen.arc(X(x), Y(y), last ? 6 : 2, 0, 7);
      pen.fill();
      if (last) { pen.strokeStyle = "white"; pen.lineWidth = 1; pen.stroke(); }
    });
    for (const cell of model.get("hidden")) {
      const x = (cell % w + 0.5) * W / w, y = (Math.floor(cell / w) + 0.5) * H / h, arm = Math.min(W / w, H / h) / 4;
      for (const [style, thick] of [["black", 4], ["white", 2]]) {
        pen.strokeStyle = style;
        pen.lineWidth = thick;
        pen.beginPath();
        for (const way of [1, -1]) { pen.moveTo(X(x - arm), Y(y - way * arm)); pen.lineTo(X(x + arm), Y(y + way * arm)); }
        pen.stroke();
      }
    }
    if (from && to) {
      const [r0, c0, r1, c1] = region();
      pen.strokeStyle = "white";
      pen.setLineDash([5, 4]);
      pen.lineWidth = 2;
      pen.strokeRect(X(c0 * W / w), Y(r0 * H / h), (c1 - c0) * W / w * scale, (r1 - r0) * H / h * scale);
    }
    pen.restore();
    const zoomed = model.get("zoom").length > 0;
    overview.style.display = reset.style.display = zoomed ? "" : "none";
    if (zoomed) {
      const [small, side] = prepared(overview, Math.round(64 * H / W));
      const s = side / W;
      small.drawImage(sheet, 0, 0, W, H, 0, 0, side, H * s);
      small.strokeStyle = FIXATION;
      small.lineWidth = 2;
      small.strokeRect(part.x * s, part.y * s, part.width * s, part.height * s);
    }
  }

  // Row and column of the patch under the pointer, held inside what is visible.
  function patch(event) {
    const box = canvas.getBoundingClientRect(), { W, H, h, w } = place;
    const [top, left, bottom, right] = model.get("zoom").length ? model.get("zoom") : [0, 0, h, w];
    const inside = (v, low, high) => Math.min(high - 1, Math.max(low, Math.floor(v)));
    return [inside((event.clientY - box.y - place.y) / place.scale * h / H, top, bottom),
            inside((event.clientX - box.x - place.x) / place.scale * w / W, left, right)];
  }

  function region() {
    return [Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.max(from[0], to[0]) + 1, Math.max(from[1], to[1]) + 1];
  }

  // A zoom of the frame's shape that has all of a region, in whole patches, so that none is cut in two.
  function zoomOn([r0, c0, r1, c1]) {
    const { h, w } = place, share = Math.max((r1 - r0) / h, (c1 - c0) / w);
    if (share > 0.99) return [];
    const rows = Math.min(h, Math.ceil(share * h - 1e-9)), columns = Math.min(w, Math.ceil(share * w - 1e-9));
    const start = (a, b, n, all) => Math.min(all - n, Math.max(0, Math.round((a + b - n) / 2)));
    const top = start(r0, r1, rows, h), left = start(c0, c1, columns, w);
    return [top, left, top + rows, left + columns];
  }

  canvas.onpointerdown = event => {
    if (event.button || !model.get("tool")) return;
    canvas.setPointerCapture(event.pointerId);
    from = patch(event);
  };
  canvas.onpointermove = event => {
    if (!place) return;
    const [row, column] = patch(event), map = model.get("map").byteLength ? floats(model.get("map")) : null;
    if (map) said.textContent = `row ${row + 1}, column ${column + 1}: ${map[row * place.w + column].toPrecision(3)}`;
    if (from) { to = [row, column]; draw(); }
  };
  canvas.onpointerup = event => {
    if (!from) return;
    to = patch(event);
    const whole = region(), tool = model.get("tool");
    from = to = null;
    const one = whole[2] - whole[0] === 1 && whole[3] - whole[1] === 1;
    if (tool === "zoom") {
      if (!one) { model.set("zoom", zoomOn(whole)); model.save_changes(); }
    } else model.send(one ? { patch: whole.slice(0, 2) } : { region: whole, tool });
    draw();
  };
  canvas.onpointercancel = () => { from = to = null; draw(); };
  canvas.onpointerleave = () => { said.textContent = ""; };
  reset.onclick = () => { model.set("zoom", []); model.save_changes(); };
  model.on("change:picture", load);
  load();
  const stop = redrawn(model, el, draw);
  return () => { stop(); model.off("change:picture", load); };
}

// ── Which colour is how much ──

function bar(model, el) {
  el.classList.add("fvlm-bar");
  const label = element("span", el, "fvlm-said");
  const inputs = [element("input", el), element("canvas", el), element("input", el)];
  const [least, canvas, most] = inputs;
  for (const [input, name] of [[least, "colours from"], [most, "colours to"]]) {
    input.type = "number";
    input.step = "any";
    input.ariaLabel = name;
  }
  let held = null;
  const limits = () => [model.get("low"), model.get("high")];
  const edge = () => [model.get("bottom"), Math.max(model.get("top"), model.get("high"))];

  function draw() {
    const [low, high] = limits(), [bottom, top] = edge(), table = bytes(model.get("table"));
    label.textContent = model.get("label");
    if (document.activeElement !== least) least.value = shown(low);
    if (document.activeElement !== most) most.value = shown(high);
    const [pen, width] = prepared(canvas, 24);
    for (let x = 0; x < width; x++) {
      const at = colour(table, bottom + (x + 0.5) / width * (top - bottom), low, high);
      pen.fillStyle = `rgb(${table[at]},${table[at + 1]},${table[at + 2]})`;
      pen.fillRect(x, 4, 1.5, 16);
    }
    for (const value of limits()) {
      const x = Math.min(width - 3, Math.max(3, (value - bottom) / (top - bottom || 1) * width));
      pen.fillStyle = "white";
      pen.strokeStyle = "#333";
      pen.lineWidth = 1;
      pen.fillRect(x - 3, 1, 6, 22);
      pen.strokeRect(x - 2.5, 1.5, 5, 21);
    }
  }

  function move(event) {
    const box = canvas.getBoundingClientRect(), [bottom, top] = edge(), found = limits();
    const value = bottom + Math.min(1, Math.max(0, (event.clientX - box.x) / box.width)) * (top - bottom);
    if (held === null) held = Math.abs(value - found[0]) < Math.abs(value - found[1]) ? 0 : 1;
    found[held] = value;
    tell(found);
  }
  function tell([low, high]) {
    if (Number.isFinite(low) && Number.isFinite(high) && low < high) model.send({ limits: [low, high] });
  }
  canvas.onpointerdown = event => { canvas.setPointerCapture(event.pointerId); move(event); };
  canvas.onpointermove = event => { if (held !== null) move(event); };
  canvas.onpointerup = canvas.onpointercancel = () => { held = null; };
  for (const input of [least, most]) {
    input.onchange = () => tell(input === least ? [+least.value, limits()[1]] : [limits()[0], +most.value]);
    input.onkeydown = event => { if (event.key === "Enter") input.onchange(); };
  }
  return redrawn(model, el, draw);
}

// ── All frames of a clip, and the keys ──

const WRITES = "input:not([type=checkbox]):not([type=radio]):not([type=range]):not([type=button]):not([type=file]), textarea, [contenteditable=true], .cm-editor";

function strip(model, el) {
  el.classList.add("fvlm-strip");
  const canvas = element("canvas", el), line = element("canvas", el), said = element("div", el, "fvlm-said");
  let sprite = null, visible = [0, 0, 0];  // first frame, how many, width of one

  const load = async () => {
    const content = model.get("sprite");
    sprite = content.byteLength ? await picture(content, "image/jpeg") : null;
    draw();
  };

  function draw() {
    const T = model.get("count"), now = model.get("frame") - 1, side = model.get("side");
    if (!T) return;
    const room = canvas.clientWidth, count = Math.max(1, Math.min(T, Math.floor(room / 52)));
    const each = Math.min(96, room / count), inner = each - 4, first = Math.min(T - count, Math.max(0, now - Math.floor(count / 2)));
    visible = [first, count, each];
    const [pen] = prepared(canvas, Math.round(inner) + 20);
    const maps = model.get("maps").byteLength ? floats(model.get("maps")) : null, [h, w] = model.get("grid");
    const limits = floats(model.get("limits")), table = bytes(model.get("table"));
    pen.font = "11px sans-serif";
    pen.textAlign = "center";
    for (let i = 0; i < count; i++) {
      const t = first + i, columns = model.get("columns");
      const part = sprite && { bitmap: sprite, x: t % columns * side, y: Math.floor(t / columns) * side, side };
      const map = maps && maps.subarray(t * h * w, (t + 1) * h * w);
      const sheet = painted(side, side, part, map, [h, w], limits[2 * t], limits[2 * t + 1], table, model.get("opacity"));
      pen.drawImage(sheet, 0, 0, side, side, i * each + 2, 2, inner, inner);
      pen.fillStyle = getComputedStyle(el).color;
      pen.fillText(t + 1, i * each + each / 2, inner + 16);
      if (t === now) { pen.strokeStyle = FIXATION; pen.lineWidth = 3; pen.strokeRect(i * each + 2, 2, inner, inner); }
    }
    const [ink, wide] = prepared(line, 44), curve = floats(model.get("curve")), top = model.get("most");
    const X = t => T === 1 ? wide / 2 : 6 + t * (wide - 12) / (T - 1), Y = v => 40 - 34 * Math.min(1, v / (top || 1));
    ink.fillStyle = "rgba(128,128,128,0.15)";
    ink.fillRect(0, 4, wide, 38);
    if (count < T) ink.fillRect(X(first), 4, X(first + count - 1) - X(first), 38);
    ink.strokeStyle = "#1f5fbf";
    ink.lineWidth = 1.5;
    ink.beginPath();
    curve.forEach((v, t) => ink.lineTo(X(t), Y(v)));
    ink.stroke();
    if (curve.length) {
      ink.fillStyle = FIXATION;
      ink.beginPath();
      ink.arc(X(now), Y(curve[now]), 4.5, 0, 7);
      ink.fill();
    }
    said.textContent = curve.length
      ? `frame ${now + 1} of ${T} · entropy of the map ${curve[now].toFixed(2)} nats (even: ${top.toFixed(2)}) · keys: ← → Home End Space`
      : `frame ${now + 1} of ${T} · keys: ← → Home End Space`;
  }

  function go(frame) {
    const next = Math.min(model.get("count"), Math.max(1, frame));
    if (next !== model.get("frame")) { model.set("frame", next); model.save_changes(); }
  }
  canvas.onpointerdown = event => {
    const x = event.clientX - canvas.getBoundingClientRect().x, i = Math.floor(x / visible[2]);
    if (i < visible[1]) go(visible[0] + i + 1);
  };
  const along = event => {
    const box = line.getBoundingClientRect();
    go(1 + Math.round((event.clientX - box.x - 6) / (box.width - 12) * (model.get("count") - 1)));
  };
  line.onpointerdown = event => { line.setPointerCapture(event.pointerId); along(event); };
  line.onpointermove = event => { if (line.hasPointerCapture(event.pointerId)) along(event); };

  // The keys are the explorer's while the pointer is over it, or it was clicked last, wherever the focus is then;
  // in a field that is written in they stay the field's.
  let clicked = false, over = false;
  const root = () => el.closest(".fvlm-explorer") || el;
  const onPress = event => { clicked = root().contains(event.target); };
  const onMove = event => { over = root().contains(event.target); };
  const onFocus = event => { if (root().contains(event.target)) clicked = true; };
  const place = event => document.activeElement || event.target;
  const mine = event => clicked || over || root().contains(place(event));
  const writes = event => place(event).closest?.(WRITES);
  const onKey = event => {
    if (!el.isConnected || !el.offsetParent || event.ctrlKey || event.metaKey || event.altKey || !mine(event)) return;
    if (writes(event)) {
      const field = place(event);
      if (event.key === "Enter" && root().contains(field)) setTimeout(() => field.blur());  // what is said is said
      return;
    }
    const now = model.get("frame");
    const act = { ArrowLeft: () => go(now - 1), ArrowRight: () => go(now + 1), Home: () => go(1),
                  End: () => go(model.get("count")),
                  " ": () => { model.set("playing", !model.get("playing")); model.save_changes(); } }[event.key];
    if (!act) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    act();
  };
  const onUp = event => { if (event.key === " " && mine(event) && !writes(event)) event.preventDefault(); };
  const listeners = { pointerdown: onPress, pointermove: onMove, focusin: onFocus, keydown: onKey, keyup: onUp };
  for (const [name, act] of Object.entries(listeners)) window.addEventListener(name, act, true);
  model.on("change:sprite", load);
  load();
  const stop = redrawn(model, el, draw);
  return () => {
    stop();
    model.off("change:sprite", load);
    for (const [name, act] of Object.entries(listeners)) window.removeEventListener(name, act, true);
  };
}

// ── Every head of every layer ──

function heads(model, el) {
  el.classList.add("fvlm-heads");
  const canvas = element("canvas", el);
  let laid = null;

  function draw() {
    const [layers, count, h, w] = model.get("shape");
    if (!layers) return;
    const room = canvas.clientWidth, margin = 52, each = Math.min(110, (room - margin) / count), inner = each - 6;
    const words = inner >= 62 ? 2 : 1, row = inner * h / w + 6 + 13 * words;
    const [pen] = prepared(canvas, Math.ceil(layers * row + 22));
    const maps = floats(model.get("maps")), hits = floats(model.get("hits")), table = bytes(model.get("table"));
    const own = model.get("own"), ink = getComputedStyle(el).color;
    laid = { layers, count, margin, each, row };
    pen.font = "11px sans-serif";
    pen.textAlign = "center";
    pen.fillStyle = ink;
    for (let j = 0; j < count; j++) pen.fillText(inner < 40 ? j + 1 : `head ${j + 1}`, margin + (j + 0.5) * each, 13);
    for (let i = 0; i < layers; i++) {
      pen.textAlign = "left";
      pen.fillStyle = ink;
      pen.fillText(`layer ${i + 1}`, 0, 22 + i * row + inner * h / w / 2 + 4);
      pen.textAlign = "center";
      for (let j = 0; j < count; j++) {
        const at = i * count + j, map = maps.subarray(at * h * w, (at + 1) * h * w), most = Math.max(...map);
        const sheet = painted(w, h, null, map, [h, w], own ? 0 : model.get("low"), own ? most : model.get("high"), table, 1);
        const x = margin + j * each + 3, y = 20 + i * row;
        pen.drawImage(sheet, 0, 0, w, h, x, y, inner, inner * h / w);
        const chosen = model.get("chosen");
        if (chosen[0] === i && (chosen[1] === j || chosen[1] === -1)) {
          pen.strokeStyle = FIXATION;
          pen.lineWidth = 3;
          pen.strokeRect(x, y, inner, inner * h / w);
        }
        pen.fillStyle = ink;
        const hit = Number.isNaN(hits[at]) ? "" : (words === 2 ? "hits " : "") + hits[at].toFixed(2);
        pen.font = hits[at] > model.get("chance") + 0.2 ? "bold 11px sans-serif" : "11px sans-serif";
        pen.fillText(hit, x + inner / 2, y + inner * h / w + 12);
        pen.font = "11px sans-serif";
        if (words === 2) pen.fillText(`max ${shown(most)}`, x + inner / 2, y + inner * h / w + 25);
      }
    }
  }
  canvas.onclick = event => {
    const box = canvas.getBoundingClientRect(), x = event.clientX - box.x - laid.margin, y = event.clientY - box.y - 20;
    const layer = Math.floor(y / laid.row), head = Math.floor(x / laid.each);
    if (layer >= 0 && layer < laid.layers && head >= 0 && head < laid.count) model.send({ layer, head });
  };
  return redrawn(model, el, draw);
}

// ── A file to take away ──

function download(model, el) {
  el.classList.add("fvlm-download");
  let link = null, opened = false;  // what a view is told as it opens was saved before
  const draw = () => {
    const content = model.get("content");
    if (link) URL.revokeObjectURL(link.href);
    el.replaceChildren();
    link = null;
    if (!content.byteLength) return;
    const size = content.byteLength < 1e6 ? `${Math.ceil(content.byteLength / 1000)} kB` : `${(content.byteLength / 1e6).toFixed(1)} MB`;
    link = element("a", el, "fvlm-link", `download ${model.get("name")} (${size})`);
    link.download = model.get("name");
    link.href = URL.createObjectURL(new Blob([bytes(content)], { type: model.get("type") }));
  };
  const arrived = () => { draw(); if (opened && link && model.get("at_once")) link.click(); opened = true; };
  model.on("change:name", draw);
  model.on("change:content", arrived);
  draw();
  return () => { model.off("change:name", draw); model.off("change:content", arrived); };
}

// ── Pictures and arrays ──

const NONE = new DataView(new ArrayBuffer(0));
const SENT = ["picture", "map", "sprite", "maps", "limits", "curve", "hits", "content"];

// A model that also has what comes as messages and not with its state: `get` and the events are the same for both.
function whole(model) {
  const data = {}, acts = {};
  const hear = (message, buffers) => {
    if (!message.data) return;
    message.data.forEach((name, i) => { data[name] = buffers[i]; });
    const events = [...message.data.map(name => `change:${name}`), "change"];
    for (const act of new Set(events.flatMap(event => [...acts[event] || []]))) act();
  };
  model.on("msg:custom", hear);
  return {
    get: name => SENT.includes(name) ? data[name] || NONE : model.get(name),
    set: (name, value) => model.set(name, value),
    save_changes: () => model.save_changes(),
    send: content => model.send(content),
    on: (event, act) => { (acts[event] ??= new Set()).add(act); model.on(event, act); },
    off: (event, act) => { acts[event]?.delete(act); model.off(event, act); },
    silence: () => model.off("msg:custom", hear),
  };
}

const KINDS = { view, bar, strip, heads, download };

export default {
  render({ model, el }) {
    const both = whole(model), stop = KINDS[model.get("kind")](both, el);
    model.send({ ask: true });
    return () => { stop(); both.silence(); };
  },
};
