// The site's only script: copy buttons, the choice of a chart, filters of the tiles, and the comparison.
// What an artifact says of itself reaches the page as text alone: textContent and attributes, never as HTML.
"use strict";
(() => {
  const every = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector, root = document) => root.querySelector(selector);
  const made = (name, facts = {}, ...inside) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(facts)) element.setAttribute(key, value);
    element.append(...inside);
    return element;
  };
  document.documentElement.classList.add("scripts");

  // the choice in the address, so that a view can be sent: names of fields that are not empty
  const asked = new URLSearchParams(location.search);
  const remember = (values) => {
    for (const [key, value] of Object.entries(values)) value ? asked.set(key, value) : asked.delete(key);
    const query = asked.toString();
    history.replaceState(null, "", location.pathname + (query ? `?${query}` : "") + location.hash);
  };

  const say = (text) => { one("#said").textContent = text; };

  const copying = () => {
    for (const block of every("pre.code")) {
      const button = made("button", { type: "button" }, "Copy");
      button.setAttribute("aria-label", `Copy the ${block.dataset.language || "text"}`);
      const frame = made("div", { class: "copyable" });
      block.replaceWith(frame);
      frame.append(block, button);
      button.addEventListener("click", async () => {
        const text = block.textContent;
        try {
          await navigator.clipboard.writeText(text);
        } catch {  // without permission, or from a file in some browsers
          const area = made("textarea", { class: "visually-hidden" });
          area.value = text;
          document.body.append(area);
          area.select();
          document.execCommand("copy");
          area.remove();
          button.focus();
        }
        button.textContent = "Copied";
        say("Copied");
        setTimeout(() => { button.textContent = "Copy"; }, 1500);
      });
    }
  };

  const options = (select, values, chosen) => {
    select.replaceChildren(...values.map(([value, text]) => made("option", { value }, text)));
    select.value = values.some(([value]) => value === chosen) ? chosen : values[0][0];
  };

  const charts = () => {
    const form = one("#chart-choice"), figures = every("figure.chart");
    if (!form) return;
    const keys = ["data", "student", "protocol"];
    const unique = (values) => [...new Set(values)];
    const choose = (wanted) => {
      let left = figures;
      const chosen = {};
      for (const key of keys) {
        const values = unique(left.map((x) => x.dataset[key]));
        options(form.elements[`chart-${key}`], values.map((x) => [x, x === "any" ? "any: the best of all" : x]), wanted[key]);
        chosen[key] = form.elements[`chart-${key}`].value;
        left = left.filter((x) => x.dataset[key] === chosen[key]);
      }
      for (const figure of figures) figure.hidden = figure !== left[0];
      return chosen;
    };
    const wanted = Object.fromEntries(keys.map((key) => [key, asked.get(`chart-${key}`)]));
    choose(wanted);
    form.addEventListener("change", () => {
      const chosen = choose(Object.fromEntries(keys.map((key) => [key, form.elements[`chart-${key}`].value])));
      remember(Object.fromEntries(keys.map((key) => [`chart-${key}`, chosen[key]])));
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    tips();
  };

  // what a point is: its picture, name and numbers, while the mouse or the keyboard is on it
  const tips = () => {
    const tip = made("div", { class: "tip", hidden: "", "aria-hidden": "true" });
    document.body.append(tip);
    const hide = () => { tip.hidden = true; };
    const show = (mark) => {
      const { name, result, protocol, size, picture } = mark.dataset;
      tip.replaceChildren();
      if (picture) tip.append(made("img", { src: picture, alt: "" }));
      tip.append(made("strong", {}, name), made("span", {}, `${result}, ${size}, protocol ${protocol}`));
      tip.hidden = false;
      const box = mark.getBoundingClientRect(), width = tip.offsetWidth, edge = document.documentElement.clientWidth;
      tip.style.left = `${scrollX + Math.max(8, Math.min(box.left + box.width / 2 - width / 2, edge - width - 8))}px`;
      const above = box.top > tip.offsetHeight + 16;
      tip.style.top = `${scrollY + (above ? box.top - tip.offsetHeight - 8 : box.bottom + 8)}px`;
    };
    for (const mark of every("a.mark")) {
      const title = one("title", mark);
      mark.setAttribute("aria-label", title.textContent);
      title.remove();
      for (const event of ["mouseenter", "focus"]) mark.addEventListener(event, () => show(mark));
      for (const event of ["mouseleave", "blur"]) mark.addEventListener(event, hide);
    }
    addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  };

  const tiles = () => {
    const form = one("#filter"), list = one("#tiles");
    if (!form) return;
    const all = every(".tile", list).map((element, order) => ({
      element, order, facts: element.dataset, best: JSON.parse(element.dataset.students), shown: one(".best", element),
      whole: [...one(".best", element).childNodes],
    }));
    const fields = ["q", "data", "method", "ipc", "labels", "student", "bytes", "sort", "variants"];
    const read = (name) => {
      const field = form.elements[name];
      return field.type === "checkbox" ? (field.checked ? "1" : "") : field.value.trim();
    };
    const write = (name, value) => {
      const field = form.elements[name];
      if (field.type === "checkbox") field.checked = value === "1"; else field.value = value ?? "";
      if (field.tagName === "SELECT" && field.selectedIndex < 0) field.value = "";
    };
    const top = (tile, student) => {
      const results = student ? [tile.best[student]] : Object.values(tile.best);
      return Math.max(...results.map((x) => (x ? x[0] : -1)), -1);
    };
    const apply = () => {
      const want = Object.fromEntries(fields.map((name) => [name, read(name)]));
      const words = want.q.toLowerCase().split(/\s+/).filter(Boolean);
      let count = 0;
      for (const tile of all) {
        const { facts } = tile;
        const fits = ["data", "method", "ipc", "labels"].every((key) => !want[key] || facts[key] === want[key])
          && (!want.bytes || Number(facts.bytes) <= Number(want.bytes))
          && (!want.student || Object.hasOwn(tile.best, want.student))
          && (want.variants || !facts.variant || words.length > 0)
          && words.every((word) => facts.words.includes(word));
        tile.element.hidden = !fits;
        count += fits;
        const result = want.student && tile.best[want.student];
        if (result) {
          const [, text, n, protocol] = result;
          tile.shown.replaceChildren(
            made("strong", { class: "accuracy" }, `${text} %`), " ",
            made("span", { class: "of" }, `${want.student}, n = ${n}, ${protocol}`));
        } else tile.shown.replaceChildren(...tile.whole);
      }
      const orders = {
        "": (a, b) => a.order - b.order,
        accuracy: (a, b) => top(b, want.student) - top(a, want.student) || a.order - b.order,
        bytes: (a, b) => a.facts.bytes - b.facts.bytes || a.order - b.order,
        name: (a, b) => (a.facts.name < b.facts.name ? -1 : 1),
      };
      list.append(...[...all].sort(orders[want.sort] ?? orders[""]).map((x) => x.element));
      one("#count").textContent = `${count} of ${all.length} artifacts`;
      remember(want);
    };
    for (const name of fields) write(name, asked.get(name));
    form.addEventListener("input", apply);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => {  // when the fields are empty
      setTimeout(() => { write("variants", "1"); apply(); });
    });
    apply();
    basket(list);
  };

  const MOST = 6;
  const basket = (list) => {
    const box = one("#basket"), picks = every(".pick", list);
    const show = () => {
      const names = picks.filter((x) => x.checked).map((x) => x.value);
      box.hidden = names.length === 0;
      one("span", box).textContent = names.length < 2 ? `${names.length} chosen: choose at least one more` : `${names.length} chosen`;
      const link = one("a", box);
      link.hidden = names.length < 2;
      link.href = `${link.href.split("?")[0]}?names=${names.join(",")}`;
      for (const pick of picks) pick.disabled = !pick.checked && names.length >= MOST;
    };
    list.addEventListener("change", show);
    one("button", box).addEventListener("click", () => {
      for (const pick of picks) pick.checked = false;
      show();
      picks[0].focus();
    });
    show();
  };

  const comparison = () => {
    const form = one("#choose");
    if (!form) return;
    const { artifacts, classes } = JSON.parse(one("#artifacts").textContent);
    let names = [...new Set((asked.get("names") ?? "").split(","))].filter((x) => Object.hasOwn(artifacts, x)).slice(0, MOST);
    const link = (name) => made("a", { href: artifacts[name].page }, name);
    const heads = () => names.map((name) => made("th", { scope: "col" }, link(name)));
    const filled = (selector, ...rows) => {
      const [head, ...body] = rows;
      const table = made("table", {}, made("thead", {}, head), made("tbody", {}, ...body));
      one(`${selector} .scroll`).replaceChildren(table);
    };

    // the images of one class: a part of the picture that holds all of them
    const cells = (name, row, title) => {
      const { file, width, height, columns, classes: rows } = artifacts[name].sheet;
      const side = width / columns, high = height / rows.length, shown = Math.min(columns, 5), large = 44 / Math.max(side, high);
      const space = "http://www.w3.org/2000/svg";
      const picture = document.createElementNS(space, "svg"), image = document.createElementNS(space, "image");
      const set = (element, facts) => { for (const [key, value] of Object.entries(facts)) element.setAttribute(key, value); };
      set(picture, { class: "cells", role: "img", "aria-label": `${title} of ${name}`, width: shown * side * large, height: high * large, viewBox: `0 ${row * high} ${shown * side} ${high}` });
      set(image, { href: file, width, height });
      picture.append(image);
      return picture;
    };

    const sideBySide = () => {
      const keys = Object.keys(artifacts[names[0]].facts);
      const row = (key) => made("tr", {}, made("th", { scope: "row" }, key), ...names.map((x) => made("td", {}, made("bdi", {}, artifacts[x].facts[key]))));
      filled("#side", made("tr", {}, made("td", {}), ...heads()), ...keys.map(row));
    };

    const byClass = () => {
      const pictured = names.filter((x) => artifacts[x].sheet);
      const where = pictured.map((x) => new Map(artifacts[x].sheet.classes.map((k, row) => [classes[artifacts[x].sheet.names][k], row])));
      const titles = [...new Set(where.flatMap((x) => [...x.keys()]))];
      const cell = (title) => (name, i) => made("td", {}, ...(where[i].has(title) ? [cells(name, where[i].get(title), title)] : []));
      const row = (title) => made("tr", {}, made("th", { scope: "row" }, made("bdi", {}, title)), ...pictured.map(cell(title)));
      const head = made("tr", {}, made("td", {}), ...pictured.map((name) => made("th", { scope: "col" }, link(name))));
      filled("#by-class", head, ...titles.map(row));
      return pictured.length > 0;
    };

    // a student's results stand under a protocol that two of the chosen have in common
    const results = () => {
      let common = 0;
      for (const table of every(".setting")) {
        for (const group of every("tbody", table)) {
          const rows = every("tr", group), chosen = rows.filter((x) => names.includes(x.dataset.name));
          group.hidden = names.length > 0 && chosen.length < Math.min(2, names.length);
          for (const row of rows) row.hidden = names.length > 0 && !chosen.includes(row);
        }
        table.hidden = every("tbody", table).every((x) => x.hidden);
        common += !table.hidden;
      }
      one("#common").textContent = names.length < 2 ? ""
        : common ? `Protocols and test sets under which at least two of the chosen have results of one student: ${common}.`
        : "The chosen have no result under a common protocol. ddhub train records one.";
    };

    const show = () => {
      one("#picked").replaceChildren(...names.map((name) => {
        const button = made("button", { type: "button", "aria-label": `Remove ${name}` }, "Remove");
        button.addEventListener("click", () => { names = names.filter((x) => x !== name); show(); form.elements.name.focus(); });
        return made("li", {}, `${name} `, button);
      }));
      one("#side").hidden = names.length === 0;
      if (names.length) sideBySide();
      one("#by-class").hidden = names.length === 0 || !byClass();
      results();
      remember({ names: names.join(",") });
    };

    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const field = form.elements.name, name = field.value.trim();
      if (!Object.hasOwn(artifacts, name)) say(`There is no artifact ${name}`);
      else if (names.length >= MOST) say(`At most ${MOST} are compared`);
      else if (!names.includes(name)) { names.push(name); field.value = ""; show(); }
    });
    show();
  };

  copying();
  charts();
  tiles();
  comparison();
})();
