// A token's weight by touch and by keyboard: what a mouse reads in its tooltip, below the page.
"use strict";
{
  const readout = document.getElementById("readout");
  let chosen = null;

  const choose = (token) => {
    chosen?.classList.remove("chosen");
    chosen = token;
    chosen.classList.add("chosen");
    readout.textContent = JSON.stringify(token.textContent) + ": " + token.title;
    token.scrollIntoView({ block: "nearest" });
  };

  document.addEventListener("click", (event) => {
    const token = event.target.closest(".tokens .token");
    if (token) choose(token);
  });

  document.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || !event.target.matches(".tokens")) return;
    event.preventDefault();
    const tokens = [...event.target.querySelectorAll(".token")];
    const at = tokens.indexOf(chosen);
    const next = tokens[at < 0 ? (step > 0 ? 0 : tokens.length - 1) : at + step];
    if (next) choose(next);
  });
}
