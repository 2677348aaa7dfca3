"use strict";

/* Tables: a click on the name of a column sorts its rows, a second one the other way round. */

function cellValue(row, column) {
  const cell = row.cells[column];
  const value = cell.dataset.value;
  if (value === undefined) return cell.textContent;
  return value === "" ? NaN : Number(value);
}

function compare(a, b) {
  if (typeof a === "string" || typeof b === "string") {
    return String(a).localeCompare(String(b), undefined, { numeric: true });
  }
  return a - b;
}

function sortRows(table, column, descending) {
  const body = table.tBodies[0];
  const isEmpty = (row) => Number.isNaN(cellValue(row, column));
  const rows = [...body.rows];
  const filled = rows.filter((row) => !isEmpty(row));
  filled.sort((a, b) => compare(cellValue(a, column), cellValue(b, column)));
  if (descending) filled.reverse();
  body.append(...filled, ...rows.filter(isEmpty)); // without a value: always at the end
  [...table.tHead.rows[0].cells].forEach((head, index) => {
    head.removeAttribute("aria-sort");
    if (index === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  });
}

function makeSortable(table) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    head.tabIndex = 0;
    const sort = () => sortRows(table, column, head.getAttribute("aria-sort") === "ascending");
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => {
      if (event.key === "Enter") sort();
    });
  });
}

/* Cases: slices of three planes, with layers that can be switched. */

const UNKNOWN = 255;
const MISSED = [255, 0, 255];
const FALSE_ALARM = [255, 0, 0];
const CONFUSED = [255, 255, 0];
const FILL = 90;
const SCALE = 2; // pixels of the canvas for one of the images

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function loadImage(source) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error("an image of this page cannot be read"));
    image.src = source;
  });
}

/** One value for each pixel of a grey image. */
function values(image) {
  const canvas = make("canvas", { width: image.naturalWidth, height: image.naturalHeight });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  return pixels.filter((_, index) => index % 4 === 0);
}

function isBorder(labels, index, width, first, last) {
  const label = labels[index];
  const column = index % width;
  return (
    (column > 0 && labels[index - 1] !== label) ||
    (column < width - 1 && labels[index + 1] !== label) ||
    (index - width >= first && labels[index - width] !== label) ||
    (index + width < last && labels[index + width] !== label)
  );
}

/** Colour and opacity of a pixel of the wrong class; null where truth and prediction agree. */
function errorColour(truth, prediction) {
  if (truth === prediction || truth === UNKNOWN) return null;
  if (prediction === 0) return MISSED;
  return truth === 0 ? FALSE_ALARM : CONFUSED;
}

class PlaneView {
  constructor(plane, name, viewer) {
    Object.assign(this, { plane, name, viewer, at: plane.first });
    this.canvas = make("canvas", {
      width: plane.width * SCALE, height: plane.height * SCALE, tabIndex: 0,
    });
    this.canvas.setAttribute("role", "img");
    this.slider = make("input", {
      type: "range", min: 0, max: plane.indices.length - 1, value: this.at,
    });
    this.slider.setAttribute("aria-label", `${name} slice`);
    this.caption = make("figcaption");
    this.figure = make("figure", {}, this.canvas, this.slider, this.caption);
    this.figure.style.flex = `${plane.width} 1 0`; // one scale for all planes
    this.images = new Map();
    this.slider.addEventListener("input", () => this.show(Number(this.slider.value)));
    this.canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.show(this.at + Math.sign(event.deltaY));
    }, { passive: false });
    this.canvas.addEventListener("keydown", (event) => {
      const step = { ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1 }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      this.show(this.at + step);
    });
  }

  show(at) {
    this.at = Math.max(0, Math.min(this.plane.indices.length - 1, at));
    this.slider.value = this.at;
    return this.draw();
  }

  image(source) {
    if (!this.images.has(source)) this.images.set(source, loadImage(source));
    return this.images.get(source);
  }

  async layer(source) {
    const key = `values of ${source}`;
    if (!this.images.has(key)) this.images.set(key, this.image(source).then(values));
    return this.images.get(key);
  }

  async draw() {
    const { plane, viewer, at } = this;
    const grey = await this.image(plane.channels[viewer.channel]);
    const overlay = await this.overlay(at);
    if (at !== this.at) return; // scrolled on meanwhile
    const context = this.canvas.getContext("2d");
    const { width, height } = this.canvas;
    context.drawImage(grey, 0, at * plane.height, plane.width, plane.height, 0, 0, width, height);
    context.imageSmoothingEnabled = false;
    context.drawImage(overlay, 0, 0, width, height);
    context.imageSmoothingEnabled = true;
    this.write(context);
    const index = plane.indices[at] + 1;
    this.caption.textContent =
      `${this.name}, ${plane.positions_mm[at]} mm (slice ${index} of ${plane.of})`;
    this.canvas.setAttribute("aria-label", this.caption.textContent);
  }

  /** The layers that are switched on, on a transparent canvas. */
  async overlay(at) {
    const { plane, viewer } = this;
    const size = plane.width * plane.height;
    const [first, last] = [at * size, (at + 1) * size];
    const pixels = new ImageData(plane.width, plane.height);
    const put = (index, [red, green, blue], opacity) =>
      pixels.data.set([red, green, blue, opacity], 4 * (index - first));
    for (const [name, source] of Object.entries(plane.uncertainty)) {
      if (!viewer.shows(name)) continue;
      const map = await this.layer(source);
      for (let i = first; i < last; i++) if (map[i] > 8) put(i, [255, 255 - map[i], 40], map[i]);
    }
    const prediction = await this.layer(plane.prediction);
    const truth = plane.truth && (await this.layer(plane.truth));
    const isEdge = (labels, i) => isBorder(labels, i, plane.width, first, last);
    for (let i = first; i < last; i++) {
      if (viewer.shows("prediction") && prediction[i] > 0) {
        put(i, viewer.colour(prediction[i]), isEdge(prediction, i) ? 255 : FILL);
      }
      if (!truth) continue;
      const error = viewer.shows("errors") && errorColour(truth[i], prediction[i]);
      if (error) put(i, error, 170);
      if (viewer.shows("truth") && truth[i] > 0 && truth[i] !== UNKNOWN && isEdge(truth, i)) {
        put(i, viewer.colour(truth[i]).map((c) => Math.round((c + 2 * 255) / 3)), 255);
      }
    }
    const canvas = make("canvas", { width: plane.width, height: plane.height });
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    return canvas;
  }

  /** Sides of the patient, and a scale. */
  write(context) {
    const { width, height } = context.canvas;
    const [left, right, top, bottom] = this.plane.letters;
    context.font = "600 18px system-ui, sans-serif";
    context.fillStyle = "#fff";
    context.shadowColor = "#000";
    context.shadowBlur = 4;
    const text = (letter, x, y, align, baseline) => {
      context.textAlign = align;
      context.textBaseline = baseline;
      context.fillText(letter, x, y);
    };
    text(left, 6, height / 2, "left", "middle");
    text(right, width - 6, height / 2, "right", "middle");
    text(top, width / 2, 4, "center", "top");
    text(bottom, width / 2, height - 4, "center", "bottom");
    const mm = [100, 50, 20, 10, 5].find((n) => n / this.plane.mm_per_pixel < this.plane.width / 3);
    if (mm !== undefined) {
      const length = (mm / this.plane.mm_per_pixel) * SCALE;
      context.fillRect(8, height - 12, length, 3);
      context.font = "13px system-ui, sans-serif";
      text(`${mm} mm`, 8, height - 16, "left", "bottom");
    }
    context.shadowBlur = 0;
  }
}

class CaseViewer {
  /** `classes`: name and colour of every label above the background. */
  constructor(place, data, classes) {
    this.classes = classes;
    this.channel = data.channel;
    this.switches = new Map();
    this.planes = Object.entries(data.planes).map(([name, plane]) => new PlaneView(plane, name, this));
    const [{ plane }] = this.planes;
    const layers = ["prediction", ...Object.keys(plane.uncertainty)];
    if (plane.truth) layers.unshift("truth", "errors");
    const on = plane.truth ? ["truth", "prediction"] : ["prediction"];
    place.append(
      make("div", { className: "controls" },
        this.choice("channel", Object.keys(plane.channels), data.name),
        this.layers(layers, on)),
      make("div", { className: "planes" }, ...this.planes.map((view) => view.figure)),
      this.key(Boolean(plane.truth)),
    );
    this.draw();
  }

  colour(label) {
    return this.classes[label - 1][1];
  }

  shows(layer) {
    return Boolean(this.switches.get(layer)?.checked);
  }

  draw() {
    return Promise.all(this.planes.map((view) => view.draw()));
  }

  choice(title, names, group) {
    const boxes = names.map((name) => {
      const box = make("input", {
        type: "radio", name: `${title} of ${group}`, value: name, checked: name === this.channel,
      });
      box.addEventListener("change", () => {
        this.channel = name;
        this.draw();
      });
      return make("label", {}, box, ` ${name}`);
    });
    return make("fieldset", {}, make("legend", { textContent: title }), ...boxes);
  }

  layers(names, on) {
    const boxes = names.map((name) => {
      const box = make("input", { type: "checkbox", value: name, checked: on.includes(name) });
      box.addEventListener("change", () => this.draw());
      this.switches.set(name, box);
      return make("label", {}, box, ` ${name}`);
    });
    return make("fieldset", {}, make("legend", { textContent: "layers" }), ...boxes);
  }

  key(hasTruth) {
    const entry = (name, [red, green, blue]) => {
      const swatch = make("i");
      swatch.style.background = `rgb(${red}, ${green}, ${blue})`;
      return make("span", {}, swatch, name);
    };
    const entries = this.classes.map(([name, colour]) => entry(name, colour));
    if (hasTruth) {
      entries.push(
        entry("error: missed", MISSED), entry("error: false", FALSE_ALARM),
        entry("error: another class", CONFUSED), make("span", { textContent: "pale outline: truth" }),
      );
    }
    return make("div", { className: "key" }, ...entries);
  }
}

function openCase(details) {
  const data = details.querySelector("script.case");
  if (data === null) return;
  new CaseViewer(details.querySelector(".viewer"), JSON.parse(data.textContent),
    JSON.parse(details.dataset.classes));
  data.remove();
}

function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) target.open = true;
}

document.querySelectorAll("table").forEach(makeSortable);
document.querySelectorAll("details.case").forEach((details) => {
  details.addEventListener("toggle", () => details.open && openCase(details));
  if (details.open) openCase(details);
});
window.addEventListener("hashchange", openTarget);
openTarget();
