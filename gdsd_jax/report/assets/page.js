"use strict";
// Sorts and filters the problems of a page. Without it all of them are shown, as they were asked.
{
  const FIRST = 12;
  const controls = document.querySelector(".controls");
  if (controls) {
    const list = document.getElementById("problems");
    const more = document.getElementById("more");
    const cards = [...list.children];
    const find = (name) => controls.querySelector(`[name=${name}]`);
    let all = false;

    const number = (card, key) =>
      card.dataset[key] === undefined ? -Infinity : Number(card.dataset[key]);
    const orders = {
      asked: (a, b) => number(a, "number") - number(b, "number"),
      best: (a, b) => number(b, "reward") - number(a, "reward"),
      worst: (a, b) => number(a, "reward") - number(b, "reward"),
      gain: (a, b) => number(b, "gain") - number(a, "gain"),
      loss: (a, b) => number(a, "gain") - number(b, "gain"),
      apart: (a, b) => number(b, "apart") - number(a, "apart"),
    };

    const show = () => {
      const text = find("text").value.trim().toLowerCase();
      const problem = find("problem").value;
      const kind = find("kind") ? find("kind").value : "";
      const sorted = cards.toSorted(orders[find("sort").value]);
      const fits = sorted.filter((card) =>
        (problem === "" || card.dataset.number === problem) &&
        (text === "" || card.textContent.toLowerCase().includes(text)));
      const shown = new Set(all ? fits : fits.slice(0, FIRST));
      for (const card of sorted) {
        card.hidden = !shown.has(card);
        list.append(card);
      }
      for (const answer of list.querySelectorAll("[data-kind]"))
        answer.hidden = kind !== "" && answer.dataset.kind !== kind;
      controls.querySelector("output").textContent =
        `${shown.size} of ${cards.length} problems`;
      more.hidden = shown.size === fits.length;
    };

    controls.hidden = false;
    controls.addEventListener("input", show);
    more.addEventListener("click", () => { all = true; show(); });
    show();
  }
}
