"use strict";
// A viewer for each .viewer of the page. It starts when it is first seen; what it shows lies in the
// JSON beside it. NiiVue draws; everything that is pressed or pulled is an ordinary control.
(() => {
  const VIEWS = { axial: 0, coronal: 1, sagittal: 2, multi: 3, render: 4 };
  const NEIGHBOURS = { 6: 1, 18: 2, 26: 3 };
  const SOLID = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));

  const offsets = (connectivity) => {
    const found = [];
    for (let z = -1; z <= 1; z++)
      for (let y = -1; y <= 1; y++)
        for (let x = -1; x <= 1; x++) {
          const steps = Math.abs(x) + Math.abs(y) + Math.abs(z);
          if (steps && steps <= NEIGHBOURS[connectivity]) found.push([x, y, z]);
        }
    return found;
  };

  // Connected voxels for which inside(index) holds, as 1 in out; smaller groups than least as 0.
  const components = (inside, [nx, ny, nz], connectivity, least, out) => {
    const around = offsets(connectivity);
    out.fill(0);
    for (let start = 0; start < out.length; start++) {
      if (out[start] || !inside(start)) continue;
      const group = [start];
      out[start] = 1;
      for (let at = 0; at < group.length; at++) {
        const index = group[at];
        const x = index % nx, y = Math.floor(index / nx) % ny, z = Math.floor(index / (nx * ny));
        for (const [dx, dy, dz] of around) {
          const a = x + dx, b = y + dy, c = z + dz;
          if (a < 0 || b < 0 || c < 0 || a >= nx || b >= ny || c >= nz) continue;
          const other = a + nx * (b + ny * c);
          if (!out[other] && inside(other)) {
            out[other] = 1;
            group.push(other);
          }
        }
      }
      if (group.length < least) for (const index of group) out[index] = 2;
    }
    for (let index = 0; index < out.length; index++) if (out[index] === 2) out[index] = 0;
  };

  // NiiVue lies packed in the page: it is unpacked, and compiled, for the first viewer that is seen.
  let unpacking;
  const unpacked = async () => {
    const packed = atob(document.getElementById("packed-niivue").textContent);
    const bytes = Uint8Array.from(packed, (char) => char.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  };
  const library = () => (unpacking ??= unpacked());

  class Viewer {
    constructor(root) {
      this.root = root;
      this.data = JSON.parse(root.querySelector("script").textContent);
      this.canvas = root.querySelector("canvas");
      this.controls = (name) => [...root.querySelectorAll(`[data-control=${name}]`)];
      this.jumps = [...document.querySelectorAll(`[data-viewer="${root.id}"]`)];
      this.lesion = -1;
    }

    async start() {
      if (!window.DecompressionStream || !document.createElement("canvas").getContext("webgl2")) return;
      this.root.querySelector(".viewer-on").hidden = false;
      try {
        await library();
        await this.attach();
        this.wire();
        if (this.data.layers.every((layer) => layer.base64)) await this.load(this.embedded());
        else if (location.protocol.startsWith("http")) await this.load(this.fetched());
      } catch (error) {
        this.root.querySelector(".viewer-on").hidden = true;
        this.root.dataset.error = String(error);
        return;
      }
      this.root.querySelector(".viewer-off").hidden = true;
    }

    async attach() {
      this.nv = new niivue.Niivue({
        logLevel: "error", dragAndDropEnabled: false, isRadiologicalConvention: true,
        sagittalNoseLeft: true, showAllOrientationMarkers: true, multiplanarShowRender: 1,
        multiplanarPadPixels: 4, multiplanarLayout: 2, crosshairColor: [0.34, 0.71, 0.91, 0.9], crosshairGap: 4,
        fontColor: [1, 1, 1, 1], scrollRequiresFocus: true, viewModeHotKey: "", clipPlaneHotKey: "",
        cycleClipPlaneHotKey: "", loadingText: "", show3Dcrosshair: true, isRuler: false,
      });
      this.nv.onLocationChange = (place) => this.say(place);
      await this.nv.attachToCanvas(this.canvas);
      for (const layer of this.data.layers) if (layer.color.startsWith("#")) this.addColor(layer);
    }

    // One colour, or several from the lowest to the highest value; what is below them is not drawn.
    // Of whole numbers 1 has the first colour, though they are drawn from a half on.
    addColor({ color, role, limits: [low, high] }) {
      const colors = color.split(",").map(SOLID), last = colors.length - 1;
      const first = role === "count" ? Math.max(2, Math.round((255 * (1 - low)) / (high - low))) : 2;
      const scale = colors.map((_, i) => first + Math.round(((255 - first) * i) / last));
      const stops = last ? [colors[0], colors[0], ...colors] : [colors[0], colors[0]];
      const [R, G, B] = [0, 1, 2].map((channel) => stops.map((stop) => stop[channel]));
      const A = stops.map((_, i) => (i ? 255 : 0));
      this.nv.addColormap(color, { R, G, B, A, I: last ? [0, 1, ...scale] : [0, 255] });
    }

    embedded() {
      return this.data.layers.map((layer) => niivue.NVImage.loadFromBase64({
        base64: layer.base64, ...this.look(layer, "layer.nii.gz"),
      }));
    }

    fetched() {
      return this.data.layers.map((layer) => niivue.NVImage.loadFromUrl({
        url: new URL(layer.file, location.href).href, ...this.look(layer, layer.file),
      }));
    }

    chosen(files) {
      const byName = new Map([...files].map((file) => [file.name, file]));
      const asked = this.data.layers.map((layer) => byName.get(layer.file.split("/").pop()));
      if (asked.includes(undefined)) return null;
      return this.data.layers.map((layer, i) => niivue.NVImage.loadFromFile({
        file: asked[i], ...this.look(layer, asked[i].name),
      }));
    }

    look(layer, name) {
      const [low, high] = layer.limits;
      const solid = layer.kind === "labels";
      return {
        name, opacity: layer.opacity, colormap: layer.color || "gray", trustCalMinMax: false,
        cal_min: solid ? 0.5 : low, cal_max: solid ? 0.6 : high,
      };
    }

    async load(images) {
      this.nv.volumes.slice().reverse().forEach((volume) => this.nv.removeVolume(volume));
      for (const [i, image] of (await Promise.all(images)).entries()) {
        const { opacity } = this.data.layers[i];
        Object.assign(image, this.look(this.data.layers[i], this.data.layers[i].name));
        this.nv.addVolume(image);
        this.nv.setOpacity(i, opacity);
      }
      this.own = this.layer("lesions")?.img.slice();
      const dims = this.nv.volumes[0].dimsRAS;
      for (const slider of this.controls("axis")) slider.max = dims[+slider.dataset.axis + 1] - 1;
      this.reset();
      this.root.dataset.ready = "true";
    }

    layer(role) {
      const index = this.data.layers.findIndex((layer) => layer.role === role);
      return index < 0 ? undefined : this.nv.volumes[index];
    }

    wire() {
      const on = (name, event, act) => {
        for (const control of this.controls(name)) control.addEventListener(event, () => act(control));
      };
      on("view", "change", (input) => this.view(input.value));
      on("opacity", "input", (input) => this.opacity(+input.dataset.layer, input.value / 100));
      on("switch", "click", () => this.switchImages());
      on("low", "input", (input) => this.low(input));
      on("cut", "input", (input) => this.cut(+input.value));
      on("axis", "input", () => this.moveBySliders());
      on("crosshair", "change", (input) => this.nv.setCrosshairWidth(input.checked ? 1 : 0));
      on("radiological", "change", (input) => this.radiological(input.checked));
      on("previous", "click", () => this.step(-1));
      on("next", "click", () => this.step(1));
      on("reset", "click", () => this.reset());
      on("files", "change", (input) => this.open(input.files));
      for (const name of ["previous", "next"])
        for (const button of this.controls(name)) button.hidden = this.jumps.length < 2;
      this.jumps.forEach((button, i) => {
        button.hidden = false;
        button.addEventListener("click", () => {
          this.jump(i);
          this.root.scrollIntoView({ block: "nearest" });
        });
      });
    }

    async open(files) {
      const images = this.chosen(files);
      const place = this.root.querySelector(".place output");
      if (images) return this.load(images);
      place.textContent = `Choose all ${this.data.layers.length} files together.`;
    }

    view(name) {
      this.nv.setSliceType(VIEWS[name]);
    }

    opacity(index, value) {
      this.nv.setOpacity(index, value);
      this.nv.drawScene();
    }

    setOpacity(index, value) {
      this.controls("opacity")[index].value = Math.round(100 * value);
      this.opacity(index, value);
    }

    // Images lie over each other: the last one that is opaque is seen.
    switchImages() {
      const images = this.data.layers.flatMap((layer, i) => (layer.kind === "image" ? [i] : []));
      const over = images.slice(1);
      const seen = over.findLastIndex((i) => this.nv.volumes[i].opacity > 0.5);
      over.forEach((i, k) => this.setOpacity(i, k === (seen + 1) % images.length && seen + 1 < over.length ? 1 : 0));
    }

    low(input) {
      const index = this.data.layers.findIndex((layer) => layer.name === input.dataset.layerName);
      this.nv.volumes[index].cal_min = +input.value;
      this.nv.updateGLVolume();
      const whole = this.data.layers[index].role === "count";
      const words = whole ? String(Math.ceil(input.value)) : (+input.value).toFixed(2);
      input.setAttribute("aria-valuetext", words);
      input.parentElement.querySelector("output").textContent = words;
    }

    radiological(checked) {
      this.nv.setRadiologicalConvention(checked);
      this.root.querySelector(".sides").textContent = checked
        ? "Radiological convention: the patient’s left (L) is on the right of axial and coronal slices."
        : "Neurological convention: the patient’s left (L) is on the left of axial and coronal slices.";
    }

    // The mask at the model's own threshold is the file's; others are cut from the map.
    cut(number) {
      const { own, steps, minVolume, connectivity, inclusive } = this.data.cuts;
      const { threshold, ml, count } = steps[number];
      const lesions = this.layer("lesions"), map = this.layer("probability");
      const { scl_slope: slope, scl_inter: inter } = map.hdr;
      const raw = (threshold - inter) / (slope || 1) - (slope ? 1e-4 / slope : 1e-6);
      const inside = inclusive ? (i) => map.img[i] >= raw : (i) => map.img[i] > raw;
      const voxel = map.hdr.pixDims.slice(1, 4).reduce((a, b) => a * b);
      if (threshold === own) lesions.img.set(this.own);
      else components(inside, map.hdr.dims.slice(1, 4), connectivity, minVolume / voxel, lesions.img);
      this.nv.updateGLVolume();
      const digits = ml >= 10 ? 1 : ml >= 0.1 || !ml ? 2 : 3;
      const words = `${threshold.toFixed(2)}${threshold === own ? " (the model’s own)" : ""}: ` +
        `${ml.toFixed(digits)} mL in ${count} ${count === 1 ? "lesion" : "lesions"}`;
      for (const slider of this.controls("cut")) {
        slider.value = number;
        slider.setAttribute("aria-valuetext", words);
        slider.parentElement.querySelector("output").textContent = words;
      }
    }

    moveBySliders() {
      const dims = this.nv.volumes[0].dimsRAS;
      this.put(this.controls("axis").map((slider, i) => (+slider.value + 0.5) / dims[i + 1]));
    }

    put(fraction) {
      this.nv.scene.crosshairPos = fraction;
      this.nv.drawScene();
      this.nv.createOnLocationChange();
    }

    // By the whole affine: without "true" NiiVue leaves the obliqueness of the grid out.
    go(mm) {
      this.put(this.nv.mm2frac(mm, 0, true));
    }

    jump(number) {
      this.lesion = number;
      this.go(this.jumps[number].dataset.mm.split(",").map(Number));
      this.jumps.forEach((button, i) => button.toggleAttribute("aria-current", i === number));
    }

    step(by) {
      const many = this.jumps.length;
      this.jump((Math.max(this.lesion, by > 0 ? -1 : 0) + by + many) % many);
    }

    say(place) {
      const at = [...place.mm].slice(0, 3);
      this.mm = at;
      const dims = this.nv.volumes[0].dimsRAS;
      this.controls("axis").forEach((slider, i) => {
        slider.value = Math.floor(this.nv.scene.crosshairPos[i] * dims[i + 1]);
        slider.setAttribute("aria-valuetext", `${at[i].toFixed(0)} mm`);
      });
      const values = place.values.map((value, i) => this.value(this.data.layers[i], value.value));
      const where = ["x", "y", "z"].map((axis, i) => `${axis} ${at[i].toFixed(0)}`).join(", ");
      this.root.querySelector(".place output").textContent = [`${where} mm`, ...values.filter(Boolean)].join(" · ");
      this.root.dataset.mm = at.map((x) => x.toFixed(2)).join(",");
    }

    value(layer, value) {
      if (layer.role === "template") return "";
      if (layer.kind === "labels") return value > 0.5 ? layer.name : "";
      return `${layer.name} ${value.toFixed(layer.kind === "map" && layer.role !== "count" ? 2 : 0)}`;
    }

    reset() {
      const { layers, centre, cuts } = this.data;
      layers.forEach((layer, i) => this.setOpacity(i, layer.opacity));
      for (const input of this.controls("low")) {
        input.value = input.min;
        this.low(input);
      }
      for (const input of this.controls("view")) input.checked = input.value === "multi";
      for (const input of [...this.controls("crosshair"), ...this.controls("radiological")]) input.checked = true;
      this.nv.setCrosshairWidth(1);
      this.radiological(true);
      this.nv.setRenderAzimuthElevation(200, 15);
      this.view("multi");
      if (cuts) this.cut(cuts.steps.findIndex((step) => step.threshold === cuts.own));
      if (centre) this.go(centre);
      else this.put([0.5, 0.5, 0.5]);
    }
  }

  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      target.viewer = new Viewer(target);
      target.viewer.start();
    }
  }, { rootMargin: "200px" });
  for (const root of document.querySelectorAll(".viewer")) seen.observe(root);
})();
