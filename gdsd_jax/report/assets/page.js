"use strict";
// Opens what a link leads to; sorts and filters the problems of a page. Without it all of them are
// shown, as they were asked.
{
  const unfold = (target) => {
    const folded = target && target.closest("details:not([open])");
    if (folded) folded.open = true;
    return folded;
  };
  for (const link of document.querySelectorAll("nav a"))
    link.addEventListener("click", () =>
      unfold(document.getElementById(link.getAttribute("href").slice(1))));
  const arrive = () => {
    const target = document.querySelector(":target");
    if (unfold(target)) target.scrollIntoView();
  };
  window.addEventListener("hashchange", arrive);
  window.addEventListener("load", arrive);

  const FIRST = 12;
  const controls = document.querySelector(".controls");
  if (controls) {
    const list = document.getElementById("problems");
    const more = document.getElementById("more");
    const cards = [...list.children];
    const find = (name) => controls.querySelector(`[name=${name}]`);
    let all = false;

    // by a number at the temperature that is shown, those without one last
    const by = (key, sign) => (a, b) => {
      const kind = find("kind") ? find("kind").selectedIndex : 0;
      const [x, y] = [a, b].map((card) => card.dataset[key + kind]);
      if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
      return sign * (x - y);
    };
    const orders = {
      asked: (a, b) => a.dataset.number - b.dataset.number,
      best: by("reward", -1),
      worst: by("reward", 1),
      gain: by("gain", -1),
      loss: by("gain", 1),
      apart: by("apart", -1),
    };

    // the question and the answers that are shown, without their grades
    const holds = (card, text) =>
      [...card.querySelectorAll(".question span, .pair > div:not([hidden]) pre")]
        .some((part) => part.textContent.toLowerCase().includes(text));

    const show = () => {
      const text = find("text").value.trim().toLowerCase();
      const problem = find("problem").value;
      const kind = find("kind") ? find("kind").value : "";
      for (const answer of list.querySelectorAll("[data-kind]"))
        answer.hidden = kind !== "" && answer.dataset.kind !== kind;
      const sorted = cards.toSorted(orders.asked).sort(orders[find("sort").value]);
      const fits = sorted.filter((card) =>
        (problem === "" || card.dataset.number === problem) &&
        (text === "" || holds(card, text)));
      const shown = new Set(all ? fits : fits.slice(0, FIRST));
      for (const card of sorted) {
        card.hidden = !shown.has(card);
        list.append(card);
      }
      controls.querySelector("output").textContent =
        `${shown.size} of ${cards.length} problems`;
      more.hidden = shown.size === fits.length;
    };

    // to the list's beginning, below the controls, where that is above what is seen
    const back = () => {
      const above = list.getBoundingClientRect().top - controls.offsetHeight;
      const space = parseFloat(getComputedStyle(controls).marginBottom);
      if (above < 0) window.scrollBy(0, above - space);
    };

    controls.hidden = false;
    controls.addEventListener("input", () => { show(); back(); });
    more.addEventListener("click", () => { all = true; show(); });
    show();
  }
}
