// Draws each figure when it comes into view. The buttons are listed because plotly's default has one that uploads.
const touch = matchMedia("(pointer: coarse)").matches;
const draw = (element) => {
  const figure = JSON.parse(element.querySelector("script").textContent);
  element.replaceChildren();
  if (touch) figure.layout.dragmode = false;
  Plotly.newPlot(element, figure.data, figure.layout, {
    responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "",
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
  });
};
const observer = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((entry) => entry.isIntersecting)) {
    observer.unobserve(entry.target);
    draw(entry.target);
  }
}, { rootMargin: "400px" });
document.querySelectorAll(".plotly-figure").forEach((element) => observer.observe(element));
