// The wipe slider and the keyboard shortcuts. Everything else works without this file.
"use strict";

for (const wipe of document.querySelectorAll("[data-wipe]")) {
  const label = wipe.querySelector(".cut");
  const slider = label.querySelector("input");
  const move = () => {
    wipe.style.setProperty("--cut", `${slider.value}%`);
    slider.setAttribute("aria-valuetext", `${slider.value} % of the track's picture`);
  };
  wipe.classList.add("wiped");
  label.hidden = false;
  slider.addEventListener("input", move);
  move();
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("textarea, select, input:not([type=radio]):not([type=checkbox])");
  if (event.key === "Enter" && event.ctrlKey && event.target.form) {
    event.target.form.requestSubmit();
    return;
  }
  if (typing || event.ctrlKey || event.altKey || event.metaKey || !/^[a-z]$/i.test(event.key)) return;
  const target = document.querySelector(`[data-key="${event.key.toLowerCase()}"]`);
  if (!target || target.disabled) return;
  event.preventDefault();
  if (target.type === "radio") {
    target.checked = true;
    document.querySelector("textarea[name=reason]").focus();
  } else {
    target.click();
  }
});
