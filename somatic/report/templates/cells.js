"use strict";
// The list of cells: searched, sorted and shown fifty at a time, so that it opens at once however long it is.
(() => {
  const { rows, thumbnails, link } = JSON.parse(document.getElementById("cells-data").textContent);
  const body = document.querySelector("#cells tbody");
  const search = document.getElementById("search");
  const status = document.getElementById("status");
  const shown = document.getElementById("shown");
  const [back, on] = ["back", "on"].map((id) => document.getElementById(id));
  const PAGE = 50;
  let found = rows, first = 0, sorted = null, direction = 1;

  function url(row) {
    if (!link || !row.centre_nm) return null;
    const state = structuredClone(link.state);
    state.position = row.centre_nm.map((at, axis) => at / link.voxel_nm[axis]);
    for (const layer of state.layers) layer.segments = [layer.name === "segmentation" ? row.soma : row.nucleus];
    return `${link.viewer}#!${encodeURIComponent(JSON.stringify(state))}`;
  }

  function cell(tr, content, className) {
    const td = tr.insertCell();
    td.append(content ?? "");
    if (className) td.className = className;
  }

  function picture(row) {
    const image = document.createElement("img");
    image.src = thumbnails[row.nucleus];
    image.alt = `soma mesh of nucleus ${row.nucleus}`;
    image.className = "mesh";
    return image;
  }

  function anchor(row) {
    const href = url(row);
    if (!href) return "";
    const a = document.createElement("a");
    a.href = href;
    a.textContent = "open";
    a.setAttribute("aria-label", `open nucleus ${row.nucleus} in Neuroglancer`);
    a.rel = "noreferrer";
    return a;
  }

  function show() {
    const page = document.createDocumentFragment();
    for (const row of found.slice(first, first + PAGE)) {
      const tr = document.createElement("tr");
      cell(tr, row.nucleus in thumbnails ? picture(row) : "");
      for (const name of ["nucleus", "soma"]) cell(tr, row[name], "number");
      cell(tr, row.status);
      for (const name of ["soma_um3", "nucleus_um3"]) cell(tr, row[name] === null ? "" : String(row[name]), "number");
      cell(tr, row.flags);
      cell(tr, row.why, "why");
      cell(tr, anchor(row));
      page.append(tr);
    }
    body.replaceChildren(page);
    const last = Math.min(first + PAGE, found.length);
    shown.textContent = found.length ? `${first + 1} to ${last} of ${found.length}` : "no cell";
    back.disabled = first === 0;
    on.disabled = last === found.length;
  }

  function compare(a, b) {
    const [x, y] = [a[sorted], b[sorted]];
    // What is unknown comes last, in either direction.
    if (x === null || y === null) return (x === null) - (y === null);
    if (typeof x === "number") return direction * (x - y);
    if (sorted === "nucleus" || sorted === "soma") return direction * (x.length - y.length || (x < y ? -1 : x > y));
    return direction * (x < y ? -1 : x > y ? 1 : 0);
  }

  function choose() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    found = rows.filter((row) => {
      if (status.value && row.status !== status.value) return false;
      const text = `${row.nucleus} ${row.soma} ${row.flags} ${row.why}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
    if (sorted) found.sort(compare);
    first = 0;
    show();
  }

  for (const button of document.querySelectorAll("#cells th button")) {
    button.addEventListener("click", () => {
      direction = sorted === button.name ? -direction : 1;
      sorted = button.name;
      for (const th of document.querySelectorAll("#cells th")) th.removeAttribute("aria-sort");
      button.closest("th").setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      choose();
    });
  }
  search.addEventListener("input", choose);
  status.addEventListener("change", choose);
  back.addEventListener("click", () => { first -= PAGE; show(); });
  on.addEventListener("click", () => { first += PAGE; show(); });
  show();
})();
