// The map's picture. Points are written into pixels directly: 100,000 of them take a few milliseconds, without a GPU.

class MapView {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.scale = 1; // 1: the whole map
    this.middle = [0.5, 0.5];
    this.order = shuffled(DATA.n); // so that no cluster covers another because of its number
    this.marks = { emphasis: null, chosen: -1, hover: -1, near: [], hits: [], cross: false };
    this.recolor("cluster");
  }

  recolor(coloring) {
    this.groups = coloring === "truth" ? DATA.truth : DATA.cluster;
    const n = coloring === "truth" ? DATA.nClasses : DATA.clusters.length;
    const paper = getComputedStyle(document.body);
    this.ink = paper.color;
    this.paper = rgb(paper.backgroundColor);
    const packed = (name) => pack(rgb(name)), pale = (name) => pack(mixed(rgb(name), this.paper, 0.16));
    this.strong = new Uint32Array(65536).fill(packed(color(NONE)));
    this.weak = new Uint32Array(65536).fill(pale(color(NONE)));
    for (let group = 0; group < n; group++) {
      this.strong[group] = packed(color(group));
      this.weak[group] = pale(color(group));
    }
    this.labels = middles(this.groups, n);
    this.draw();
  }

  resize() {
    this.ratio = Math.min(2, window.devicePixelRatio || 1);
    this.wide = this.canvas.clientWidth;
    this.high = this.canvas.clientHeight;
    if (!this.wide || !this.high) return; // not laid out yet: the observer calls again
    this.canvas.width = Math.round(this.wide * this.ratio);
    this.canvas.height = Math.round(this.high * this.ratio);
    this.image = this.context.createImageData(this.canvas.width, this.canvas.height);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.draw();
  }

  get side() {
    return (Math.min(this.wide, this.high) - 28) * this.scale;
  }

  // Place of a point of the map in CSS pixels, and back.
  at(x, y) {
    return [this.wide / 2 + (x - this.middle[0]) * this.side, this.high / 2 + (this.middle[1] - y) * this.side];
  }

  move(right, down) {
    const hold = (value) => Math.min(1.1, Math.max(-0.1, value));
    this.middle = [hold(this.middle[0] - right / this.side), hold(this.middle[1] + down / this.side)];
    this.draw();
  }

  // Zoom so that what lies at (left, top) stays there.
  zoom(factor, left = this.wide / 2, top = this.high / 2) {
    const old = this.side;
    this.scale = Math.min(200, Math.max(1, this.scale * factor));
    const right = left - this.wide / 2, down = top - this.high / 2;
    this.middle[0] += right / old - right / this.side;
    this.middle[1] -= down / old - down / this.side;
    if (this.scale === 1) this.middle = [0.5, 0.5];
    this.draw();
  }

  // The point nearest to a place in CSS pixels, -1 where none is within `reach`. One with a picture may be up to three
  // times as far away: where points are dense there is one everywhere.
  nearest(left, top, reach) {
    const x = this.middle[0] + (left - this.wide / 2) / this.side, y = this.middle[1] - (top - this.high / 2) / this.side;
    const only = this.marks.emphasis;
    let best = -1, least = (reach / this.side) ** 2;
    for (let point = 0; point < DATA.n; point++) {
      const right = DATA.x[point] - x, up = DATA.y[point] - y;
      const apart = (right * right + up * up) * (DATA.thumbnailOf[point] < 0 ? 9 : 1);
      if (apart < least && (only === null || this.groups[point] === only)) { least = apart; best = point; }
    }
    return best;
  }

  draw() {
    if (this.waiting || !this.pixels) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = null;
      this.paint();
    });
  }

  paint() {
    const started = performance.now();
    this.pixels.fill(pack(this.paper));
    const only = this.marks.emphasis;
    if (only === null) this.scatter(this.strong, null, false);
    else {
      this.scatter(this.weak, only, false);
      this.scatter(this.strong, only, true);
    }
    this.context.putImageData(this.image, 0, 0);
    this.overlay();
    this.spent = performance.now() - started; // read by measurements
  }

  radius() {
    const room = Math.sqrt(this.wide * this.high / DATA.n);
    return Math.min(7, Math.max(1, 0.2 * room) * this.scale ** 0.35) * this.ratio;
  }

  // Points in their group's colour; with `only` those that are of that group, or those that are not.
  scatter(colors, only, inside) {
    const { pixels, groups, order, ratio } = this, wide = this.canvas.width, high = this.canvas.height;
    const disc = discOf(Math.min(this.radius(), 7 * ratio), wide), margin = disc.margin;
    const grow = this.side * ratio, left = wide / 2 - this.middle[0] * grow, top = high / 2 + this.middle[1] * grow;
    for (let i = 0; i < order.length; i++) {
      const point = order[i], group = groups[point];
      if (only !== null && (group === only) !== inside) continue;
      const x = (left + DATA.x[point] * grow) | 0, y = (top - DATA.y[point] * grow) | 0;
      if (x < margin || y < margin || x >= wide - margin || y >= high - margin) continue;
      const paint = colors[group], start = y * wide + x;
      for (let j = 0; j < disc.solid.length; j++) pixels[start + disc.solid[j]] = paint;
      for (let j = 0; j < disc.edge.length; j++) {
        const pixel = start + disc.edge[j];
        pixels[pixel] = blend(pixels[pixel], paint, disc.cover[j]);
      }
    }
  }

  overlay() {
    const pen = this.context, { chosen, hover, near, hits, cross } = this.marks;
    pen.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    const size = this.radius() / this.ratio;
    for (const point of hits) this.ring(point, size + 2, 1);
    if (chosen >= 0) this.rays(chosen, near, size);
    if (hover >= 0) this.ring(hover, size + 3, 1.5);
    this.numbers();
    if (cross) this.cross();
    pen.setTransform(1, 0, 0, 1, 0, 0);
  }

  ring(point, radius, width) {
    const pen = this.context;
    pen.beginPath();
    pen.arc(...this.at(DATA.x[point], DATA.y[point]), radius, 0, 2 * Math.PI);
    Object.assign(pen, { strokeStyle: this.ink, lineWidth: width });
    pen.stroke();
  }

  rays(chosen, near, size) {
    const pen = this.context;
    pen.beginPath();
    for (const point of near) {
      pen.moveTo(...this.at(DATA.x[chosen], DATA.y[chosen]));
      pen.lineTo(...this.at(DATA.x[point], DATA.y[point]));
    }
    Object.assign(pen, { strokeStyle: this.ink, lineWidth: 0.75 });
    pen.stroke();
    near.forEach((point) => this.ring(point, size + 2, 1));
    this.ring(chosen, size + 5, 2.5);
  }

  // The groups' numbers, the largest group first, where they cover no other number.
  numbers() {
    const pen = this.context, placed = [], many = this.labels.length > 40 && this.scale < 2;
    const font = `600 ${many ? 11 : 14}px system-ui, sans-serif`;
    Object.assign(pen, { font, textAlign: "center", textBaseline: "middle" });
    Object.assign(pen, { lineWidth: many ? 2 : 4, lineJoin: "round", strokeStyle: `rgb(${this.paper})`, fillStyle: this.ink });
    for (const { group, x, y } of this.labels) {
      if (this.marks.emphasis !== null && this.marks.emphasis !== group) continue;
      const [left, top] = this.at(x, y);
      if (placed.some(([a, b]) => Math.abs(a - left) < 22 && Math.abs(b - top) < 15)) continue;
      placed.push([left, top]);
      pen.strokeText(group, left, top);
      pen.fillText(group, left, top);
    }
  }

  cross() {
    const pen = this.context, [left, top] = [this.wide / 2, this.high / 2];
    pen.beginPath();
    for (const [x, y] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      pen.moveTo(left + 5 * x, top + 5 * y);
      pen.lineTo(left + 14 * x, top + 14 * y);
    }
    Object.assign(pen, { strokeStyle: this.ink, lineWidth: 1.5 });
    pen.stroke();
  }
}
