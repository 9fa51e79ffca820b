// A slide's picture with its patches coloured by contribution; pan and zoom. Coordinates are level-0 px.
"use strict";

const AGAINST = [33, 102, 172], NEUTRAL = [247, 247, 247], FOR = [178, 24, 43];

// The colour of a share of -1 to 1, as in the sheet that the demo draws.
function colourOf(share, alpha) {
  const end = share > 0 ? FOR : AGAINST;
  const t = Math.min(Math.abs(share), 1);
  const [r, g, b] = NEUTRAL.map((n, i) => Math.round(n + t * (end[i] - n)));
  return `rgb(${r} ${g} ${b} / ${alpha})`;
}

// Where an annotation lies, in level-0 px.
class Outline {
  constructor(label, rings) {
    this.label = label;
    this.path = new Path2D();
    let [left, right, bottom] = [Infinity, -Infinity, -Infinity];
    this.top = [0, Infinity];
    for (const ring of rings) {
      for (let i = 0; i < ring.length; i += 2) {
        const [x, y] = [ring[i], ring[i + 1]];
        if (i) this.path.lineTo(x, y);
        else this.path.moveTo(x, y);
        left = Math.min(left, x);
        right = Math.max(right, x);
        bottom = Math.max(bottom, y);
        if (y < this.top[1]) this.top = [x, y];
      }
      this.path.closePath();
    }
    this.box = { x: left, y: this.top[1], width: right - left, height: bottom - this.top[1] };
  }
}

class HeatMap {
  // layers: {x, y, width, height, source}, coarse first; outlines: {label, rings: [[x0, y0, x1, y1, ...], ...]};
  // told: called with the tile and the outline under the pointer, or -1.
  constructor(canvas, bounds, layers, outlines, mpp, told) {
    this.canvas = canvas;
    this.bounds = bounds;
    this.mpp = mpp;
    this.told = told;
    this.tiles = { x: [], y: [], size: 1, shares: [] };
    this.alpha = 0.6;
    this.dots = false;
    this.chosen = -1;
    this.outlined = -1;
    this.outlines = outlines.map(({ label, rings }) => new Outline(label, rings));
    this.pointers = new Map();
    this.layers = layers.map((layer) => {
      const image = new Image();
      image.onload = () => this.draw();
      image.src = layer.source;
      return { ...layer, image };
    });
    canvas.addEventListener("pointerdown", (e) => this.grab(e));
    canvas.addEventListener("pointermove", (e) => this.move(e));
    for (const kind of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(kind, (e) => this.pointers.delete(e.pointerId));
    }
    canvas.addEventListener("pointerleave", () => this.point(-1, -1));
    canvas.addEventListener("wheel", (e) => this.wheel(e), { passive: false });
    canvas.addEventListener("keydown", (e) => this.key(e));
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(canvas);
    this.whole();
  }

  close() {
    this.observer.disconnect();
  }

  // `shares` holds, for each tile, -1 to 1, or null for one that no composite drew.
  show(tiles) {
    this.tiles = tiles;
    this.chosen = -1;
    this.draw();
  }

  whole() {
    this.fit(this.bounds);
  }

  fit(box) {
    const width = this.canvas.clientWidth || 1, height = this.canvas.clientHeight || 1;
    this.scale = (box === this.bounds ? 1 : 0.96) * Math.min(width / box.width, height / box.height);
    this.x = box.x + box.width / 2;
    this.y = box.y + box.height / 2;
    this.fitted = box;
    this.draw();
  }

  choose(index) {
    const { x, y, size } = this.tiles;
    this.fit({ x: x[index] - 2 * size, y: y[index] - 2 * size, width: 5 * size, height: 5 * size });
    this.chosen = index;
    this.draw();
  }

  // Zoom so that the point under (px, py) of the canvas stays where it is.
  zoom(factor, px = this.canvas.clientWidth / 2, py = this.canvas.clientHeight / 2) {
    const [x, y] = this.place(px, py);
    const least = 0.2 * Math.min(
      this.canvas.clientWidth / this.bounds.width, this.canvas.clientHeight / this.bounds.height);
    this.scale = Math.min(Math.max(this.scale * factor, least), 4);
    const [nx, ny] = this.place(px, py);
    this.x += x - nx;
    this.y += y - ny;
    this.fitted = null;
    this.draw();
  }

  pan(dx, dy) {
    const clamp = (v, low, length) => Math.min(Math.max(v, low), low + length);
    this.x = clamp(this.x - dx / this.scale, this.bounds.x, this.bounds.width);
    this.y = clamp(this.y - dy / this.scale, this.bounds.y, this.bounds.height);
    this.fitted = null;
    this.draw();
  }

  place(px, py) {
    return [
      this.x + (px - this.canvas.clientWidth / 2) / this.scale,
      this.y + (py - this.canvas.clientHeight / 2) / this.scale,
    ];
  }

  grab(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, event);
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) {
      const [x, y] = this.place(event.offsetX, event.offsetY);
      this.point(this.tileAt(x, y), this.outlineAt(x, y));
      return;
    }
    const others = [...this.pointers.values()].filter((p) => p.pointerId !== event.pointerId);
    if (others.length === 1) {
      const box = this.canvas.getBoundingClientRect();
      const apart = (p) => Math.hypot(p.clientX - others[0].clientX, p.clientY - others[0].clientY) || 1;
      this.zoom(
        apart(event) / apart(before),
        (event.clientX + others[0].clientX) / 2 - box.left,
        (event.clientY + others[0].clientY) / 2 - box.top,
      );
    } else if (!others.length) {
      this.pan(event.clientX - before.clientX, event.clientY - before.clientY);
    }
    this.pointers.set(event.pointerId, event);
  }

  wheel(event) {
    // Without the focus, the wheel goes on scrolling the page.
    if (document.activeElement !== this.canvas && !event.ctrlKey) return;
    event.preventDefault();
    this.zoom(Math.exp(-Math.sign(event.deltaY) * 0.2), event.offsetX, event.offsetY);
  }

  key(event) {
    const step = 60;
    const actions = {
      "+": () => this.zoom(1.4), "=": () => this.zoom(1.4), "-": () => this.zoom(1 / 1.4), "0": () => this.whole(),
      ArrowLeft: () => this.pan(step, 0), ArrowRight: () => this.pan(-step, 0),
      ArrowUp: () => this.pan(0, step), ArrowDown: () => this.pan(0, -step),
    };
    const action = actions[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  }

  // Tell what is pointed at, and draw its outline strongly.
  point(tile, outline) {
    this.told(tile, outline);
    this.highlight(outline);
  }

  highlight(outline) {
    if (outline === this.outlined) return;
    this.outlined = outline;
    this.draw();
  }

  outlineAt(x, y) {
    const context = this.canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    return this.outlines.findIndex((outline) => context.isPointInPath(outline.path, x, y, "evenodd"));
  }

  tileAt(x, y) {
    const t = this.tiles;
    return t.x.findIndex((left, i) => left <= x && x < left + t.size && t.y[i] <= y && y < t.y[i] + t.size);
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.max(1, Math.round(this.canvas.clientWidth * ratio));
    this.canvas.height = Math.max(1, Math.round(this.canvas.clientHeight * ratio));
    if (this.fitted) this.fit(this.fitted);
    else this.draw();
  }

  draw() {
    const { canvas, tiles, scale } = this;
    const context = canvas.getContext("2d");
    const ratio = canvas.width / (canvas.clientWidth || 1);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "white";
    context.fillRect(0, 0, canvas.width, canvas.height);
    const s = scale * ratio;
    context.setTransform(s, 0, 0, s, canvas.width / 2 - this.x * s, canvas.height / 2 - this.y * s);
    context.imageSmoothingQuality = "high";
    for (const { image, x, y, width, height } of this.layers) {
      if (image.complete && image.naturalWidth) context.drawImage(image, x, y, width, height);
    }
    tiles.x.forEach((x, i) => {
      const share = tiles.shares[i];
      if (share === null) {
        context.strokeStyle = `rgb(90 90 90 / ${this.alpha})`;
        context.lineWidth = 1 / s;
        context.strokeRect(x, tiles.y[i], tiles.size, tiles.size);
      } else {
        context.fillStyle = colourOf(share, this.alpha);
        context.fillRect(x, tiles.y[i], tiles.size, tiles.size);
        // Both ends of the colours are as dark: where there is no hue, a dot tells them apart.
        if (this.dots && share > 0) {
          context.beginPath();
          context.arc(x + tiles.size / 2, tiles.y[i] + tiles.size / 2, tiles.size * 0.16, 0, 2 * Math.PI);
          context.fillStyle = "black";
          context.fill();
          context.strokeStyle = "white";
          context.lineWidth = tiles.size * 0.04;
          context.stroke();
        }
      }
    });
    this.outlines.forEach((outline, i) => {
      const strong = i === this.outlined;
      for (const [colour, width] of [["white", strong ? 7 : 4], [strong ? "#b8860b" : "black", strong ? 4 : 1.8]]) {
        context.strokeStyle = colour;
        context.lineWidth = (width * ratio) / s;
        context.stroke(outline.path);
      }
    });
    if (this.chosen >= 0) {
      for (const [colour, width] of [["white", 6], ["black", 3]]) {
        context.strokeStyle = colour;
        context.lineWidth = (width * ratio) / s;
        context.strokeRect(tiles.x[this.chosen], tiles.y[this.chosen], tiles.size, tiles.size);
      }
    }
    this.drawNames(context, ratio);
    this.drawRule(context, ratio);
  }

  // The name of each outline that is large enough to bear it, above it; of the one pointed at in any case.
  drawNames(context, ratio) {
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.font = "600 13px system-ui, sans-serif";
    this.outlines.forEach(({ label, box, top }, i) => {
      const width = context.measureText(label).width;
      if (i !== this.outlined && box.width * this.scale < 0.6 * width) return;
      const above = (top[0] - this.x) * this.scale + this.canvas.clientWidth / 2 - width / 2;
      const x = Math.max(Math.min(above, this.canvas.clientWidth - width - 4), 4);
      const y = Math.max((top[1] - this.y) * this.scale + this.canvas.clientHeight / 2 - 8, 18);
      context.fillStyle = "rgb(255 255 255 / 0.85)";
      context.fillRect(x - 4, y - 14, width + 8, 19);
      context.fillStyle = "black";
      context.fillText(label, x, y);
    });
  }

  // A rule of a round length, lower left.
  drawRule(context, ratio) {
    if (!this.mpp) return;
    const longest = (0.25 * this.canvas.clientWidth * this.mpp) / this.scale;
    const power = 10 ** Math.floor(Math.log10(longest));
    const length = [5, 2, 1].map((n) => n * power).find((n) => n <= longest);
    const px = (length / this.mpp) * this.scale;
    const text = length >= 1000 ? `${length / 1000} mm` : `${length} µm`;
    const y = this.canvas.clientHeight - 14;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.font = "12px system-ui, sans-serif";
    context.fillStyle = "rgb(255 255 255 / 0.8)";
    context.fillRect(8, y - 20, Math.max(px, context.measureText(text).width) + 12, 30);
    context.fillStyle = "black";
    context.fillRect(14, y, px, 3);
    context.fillText(text, 14, y - 6);
  }
}
