// One slider moves the samples of all runs; without this script the last grids are shown.
const slider = document.getElementById("stop");
const stops = slider.dataset.stops.split(" ").map(Number);

function show() {
  const stop = stops[slider.value];
  document.getElementById("iteration").textContent = "iteration " + stop.toLocaleString("en");
  for (const samples of document.querySelectorAll(".samples")) {
    const grids = [...samples.querySelectorAll(".grid")];
    const due = grids.filter((grid) => Number(grid.dataset.iteration) <= stop).pop() ?? grids[0];
    for (const grid of grids) grid.hidden = grid !== due;
  }
}

slider.addEventListener("input", show);
slider.parentElement.hidden = false;
show();
